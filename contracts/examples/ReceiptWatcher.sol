// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {ReceiptProof} from "../ReceiptProof.sol";

/// @title Follows a Labora chain's validator sets, on any chain, and says which receipts that chain holds.
/// @notice An example of ReceiptProof's use. It begins at the genesis hash that its first caller names, once; whoever
///  relies on it reads that hash. Anybody may carry it on, a block an epoch. Compile with `viaIR`.
contract ReceiptWatcher {
    uint256 public chainId;
    bytes32 public genesis;
    /// Hash of the set that decides the epoch which the watcher has come to.
    bytes32 public set;
    /// Height of the last block that it believed.
    uint256 public height;

    event Followed(uint256 indexed height, bytes32 set);

    /// Once: the chain to follow, by the header and sidecar of its block 0.
    function begin(uint256 chainId_, bytes32 genesis_, bytes calldata header, bytes calldata sidecar) external {
        require(genesis == 0, "begun already");
        (chainId, genesis) = (chainId_, genesis_);
        set = ReceiptProof.setOfGenesis(header, sidecar, genesis_);
        emit Followed(0, set);
    }

    /// The last block of the epoch: its set names the next one.
    function follow(ReceiptProof.CertifiedBlock calldata last) external {
        ReceiptProof.Believed memory found = ReceiptProof.believe(last, set, chainId, genesis);
        require(found.number > height, "an older block");
        (height, set) = (found.number, found.nextSet);
        emit Followed(height, set);
    }

    /// The receipt's id that the chain's state holds for a task, by a block of the epoch that the watcher has come to.
    function receiptOf(
        bytes32 task,
        ReceiptProof.CertifiedBlock calldata spot,
        bytes[] calldata accountProof,
        bytes[] calldata storageProof
    ) external view returns (bytes32) {
        bytes32 stateRoot = ReceiptProof.believe(spot, set, chainId, genesis).stateRoot;
        return ReceiptProof.receiptOf(task, stateRoot, accountProof, storageProof);
    }

    /// Whether an old receipt lies under the root of its epoch.
    function holds(
        bytes32 receipt,
        uint64 epoch,
        uint256 index,
        bytes32[] calldata siblings,
        ReceiptProof.CertifiedBlock calldata spot,
        bytes[] calldata accountProof,
        bytes[][2] calldata countAndRoot
    ) external view returns (bool) {
        bytes32 stateRoot = ReceiptProof.believe(spot, set, chainId, genesis).stateRoot;
        (bytes32 root, uint256 count) =
            ReceiptProof.receiptsOf(epoch, stateRoot, accountProof, countAndRoot[0], countAndRoot[1]);
        return ReceiptProof.rootByPath(receipt, index, count, siblings) == root;
    }
}

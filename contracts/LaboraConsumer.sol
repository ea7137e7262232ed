// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {ILaboraBeacon} from "./ILaboraBeacon.sol";
import {ILaboraMarket} from "./ILaboraMarket.sol";

/// @title Base of a contract that asks the chain's validators for inference and is called back with the result.
/// @notice The answer itself is too large for a callback: it names the hash of the tokens, and whoever has them (they
/// stand in the log TaskAnswered) hands them in; `_isAnswer` says whether they are the ones. A callback is made once,
/// with the gas that was paid for; when it fails the task's end stands all the same.
abstract contract LaboraConsumer {
    ILaboraMarket internal constant MARKET = ILaboraMarket(0x0000000000000000000000000000000000000a03);
    ILaboraBeacon internal constant BEACON = ILaboraBeacon(0x0000000000000000000000000000000000000a06);
    address internal constant COURIER = 0x0000000000000000000000000000000000000A07;

    uint8 internal constant SETTLED = 7;
    uint8 internal constant REFUNDED = 8;
    uint8 internal constant UNVERIFIED = 10;
    uint8 internal constant REFUTED = 11;

    /// What is asked. kind: 0 generate, 1 embed, 2 score. tokens: four bytes each. temperatureQ16: 65536 is 1.
    /// assurance: least verifiers. valueAtRisk: wei that a wrong answer may cost. callbackGas: at most 200,000.
    struct Ask {
        uint8 kind;
        bytes32 model;
        bytes tokens;
        uint32 maxTokens;
        uint32 temperatureQ16;
        uint32 topK;
        uint8 assurance;
        uint256 valueAtRisk;
        uint256 tipPerCwu;
        uint32 callbackGas;
    }

    error NotTheCourier(address caller);
    error NotAsked(bytes32 task);
    error TooLittle(uint256 escrow, uint256 balance);

    uint32 private constant DEADLINE = 30;
    uint256 private constant CHUNK = 1024;

    mapping(bytes32 => bool) private _waiting;

    /// What is not needed of an escrow comes back as a balance, without a call; others may send coins.
    receive() external payable {}

    /// The Courier's call. Nobody else's counts, and a task's counts once.
    function onLaboraTask(bytes32 task, uint8 status, bytes32 outputHash, bytes32 receipt) external {
        if (msg.sender != COURIER) revert NotTheCourier(msg.sender);
        if (!_waiting[task]) revert NotAsked(task);
        delete _waiting[task];
        _onTask(task, status, outputHash, receipt);
    }

    /// A task has come to its end: SETTLED and UNVERIFIED have an answer, REFUNDED and REFUTED brought the escrow back.
    function _onTask(bytes32 task, uint8 status, bytes32 outputHash, bytes32 receipt) internal virtual;

    /// Post a task, paid from this contract's balance. Reverts with the chain's reason when it is refused.
    function _ask(Ask memory what) internal returns (bytes32 task) {
        (uint256 escrow, uint32 least, uint32 most,) = MARKET.quote(
            what.kind, what.model, uint32(what.tokens.length / 4), what.maxTokens, what.assurance, what.valueAtRisk,
            what.tipPerCwu, what.callbackGas
        );
        if (escrow > address(this).balance) revert TooLittle(escrow, address(this).balance);
        uint32 deadline = least > DEADLINE ? least : (most < DEADLINE ? most : DEADLINE);
        task = MARKET.post{value: escrow}(
            what.kind, what.model, what.tokens, what.maxTokens, what.temperatureQ16, what.topK, what.assurance,
            what.valueAtRisk, what.tipPerCwu, deadline, what.callbackGas
        );
        if (what.callbackGas > 0) _waiting[task] = true;
    }

    /// Whether these tokens (or elements, four bytes each) are the answer with that hash: the root of a binary keccak
    /// tree over chunks of 256, leaves prefixed with 0x00 and nodes with 0x01, an odd node promoted.
    function _isAnswer(bytes memory tokens, bytes32 outputHash) internal pure returns (bool) {
        if (tokens.length == 0 || tokens.length % 4 != 0) return false;
        uint256 count = (tokens.length + CHUNK - 1) / CHUNK;
        bytes32[] memory level = new bytes32[](count);
        for (uint256 i = 0; i < count; i++) {
            uint256 size = tokens.length - i * CHUNK;
            if (size > CHUNK) size = CHUNK;
            bytes memory leaf = new bytes(size + 1);
            for (uint256 j = 0; j < size; j++) {
                leaf[j + 1] = tokens[i * CHUNK + j];
            }
            level[i] = keccak256(leaf);
        }
        while (count > 1) {
            uint256 half = count / 2;
            for (uint256 i = 0; i < half; i++) {
                level[i] = keccak256(abi.encodePacked(bytes1(0x01), level[2 * i], level[2 * i + 1]));
            }
            if (count % 2 == 1) level[half] = level[count - 1];
            count = half + count % 2;
        }
        return level[0] == outputHash;
    }

    /// Randomness of a block that is on the chain (8,192 are kept), for one purpose. It is fair for what was fixed before
    /// that block began: bets on a block must close before it.
    function _random(uint64 height, bytes32 purpose) internal view returns (uint256) {
        return uint256(keccak256(abi.encodePacked(BEACON.mixAt(height), purpose)));
    }
}

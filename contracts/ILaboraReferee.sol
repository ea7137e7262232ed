// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {Dispute} from "./LaboraTypes.sol";

/// @notice Disputes about answers, decided by recomputing one bounded operation.
/// @dev At 0x0000000000000000000000000000000000000A05. Generated from vm/system/abi.py.
interface ILaboraReferee {
    event Challenged(
        uint64 indexed dispute,
        bytes32 indexed task,
        address indexed accused,
        address challenger,
        address operator,
        uint8 attempt,
        uint32 leaf,
        uint256 bond
    );
    event DisputeBegan(uint64 indexed dispute, bytes32 indexed task, uint8 state, uint64 lastBlock);
    event Shown(
        uint64 indexed dispute,
        bytes32 indexed task,
        address indexed sender,
        uint8 state,
        uint8 level,
        uint32 index,
        bytes data,
        uint64 lastBlock
    );
    event Chosen(
        uint64 indexed dispute,
        bytes32 indexed task,
        uint8 state,
        uint32 chosen,
        bytes32 child,
        uint8 nextState,
        uint8 turn,
        uint64 lastBlock
    );
    event Judged(
        uint64 indexed dispute,
        bytes32 indexed task,
        uint32 leaf,
        string op,
        string rule,
        uint64 element,
        bool holds
    );
    event RefereesDiverged(
        uint64 indexed dispute,
        bytes32 indexed task,
        bytes32 indexed model,
        address accused,
        uint32 leaf,
        string op,
        string rule,
        uint64 element,
        bool nativeHolds,
        string second,
        uint256 heldWei
    );
    event ListRefuted(
        uint64 indexed dispute,
        bytes32 indexed task,
        address indexed author,
        uint8 reason,
        uint256 bond,
        uint64 lastBlock
    );
    event DisputeEnded(
        uint64 indexed dispute,
        bytes32 indexed task,
        address indexed winner,
        address loser,
        uint8 reason,
        uint256 lostWei,
        uint256 costsWei,
        uint256 askerWei,
        uint256 bountyWei,
        uint256 burnedWei
    );
    function challenge(bytes32 task, uint32 leaf) external payable returns (uint64 dispute);
    function show(uint64 dispute, bytes calldata data) external payable;
    function choose(uint64 dispute, uint32 index, bytes32 child, bytes32[] calldata path) external;
    function open(uint64 dispute, uint64 element, bytes calldata opening) external;
    function getDispute(uint64 dispute) external view returns (Dispute memory info);
    function disputesOf(bytes32 task) external view returns (uint64[] memory disputes);
    function openDisputes() external view returns (uint64[] memory disputes);
    function bondFor(bytes32 task, address challenger) external view returns (uint256 amount, bool fromStake);
    function standInBond(
        uint64 dispute,
        address author
    ) external view returns (uint256 amount, bool fromStake);
    function heldWei() external view returns (uint256 amount);
}

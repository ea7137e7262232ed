// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {Member, Totals} from "./LaboraTypes.sol";

/// @notice Credits, compute receipts, voting powers by epoch, totals.
/// @dev At 0x0000000000000000000000000000000000000a04. Generated from vm/system/abi.py.
interface ILaboraLedger {
    event Receipt(
        bytes32 indexed receipt,
        bytes32 indexed task,
        address indexed executor,
        uint8 class,
        uint8 lane,
        uint8 kind,
        bytes32 model,
        bytes32 promptHash,
        bytes32 outputHash,
        bytes32 seed,
        uint32 promptTokens,
        uint32 outputTokens,
        uint256 prefillMacs,
        uint256 decodeMacs,
        uint256 prefillBytes,
        uint256 decodeBytes,
        address[] verifiers,
        uint8 verification,
        uint8 outcome,
        bytes32 root,
        uint256 pricePerCwu,
        uint256 fee,
        address payer,
        uint32 queueMs,
        uint32 firstTokenMs,
        uint32 totalMs,
        bytes device
    );
    event EpochTurned(
        uint64 indexed epoch,
        uint64 indexed fixes,
        bytes32 setHash,
        uint32 members,
        uint256 totalPower,
        uint256 rho,
        uint32 auditDelay,
        bool frozen
    );
    event PowerSet(
        uint64 indexed epoch,
        address indexed operator,
        uint256 power,
        uint256 target,
        uint256 credit,
        uint256 bond
    );
    event Credited(
        uint64 indexed epoch,
        address indexed operator,
        uint256 executedMacs,
        uint256 auditedMacs,
        uint256 credit
    );
    function getCredit(address operator) external view returns (uint256 macs);
    function getReceipt(bytes32 task) external view returns (bytes32 receipt);
    function receiptsRoot(uint64 epoch) external view returns (bytes32 root, uint32 count);
    function getSet(
        uint64 epoch
    ) external view returns (bytes32 setHash, uint256 totalPower, bytes32 seedMix, Member[] memory members);
    function getTotals() external view returns (Totals memory totals);
    function basePrice() external view returns (uint256 weiPerCwu);
    function load() external view returns (uint256 backlogMacs, uint256 capacityMacsPerBlock);
    function auditDelay(uint64 epoch) external view returns (uint32 blocks);
    function rho() external view returns (uint256 q64);
}

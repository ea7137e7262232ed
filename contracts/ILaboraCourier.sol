// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// @notice Sender of callbacks: what waits. LaboraConsumer.sol receives them.
/// @dev At 0x0000000000000000000000000000000000000A07. Generated from vm/system/abi.py.
interface ILaboraCourier {
    event CalledBack(
        bytes32 indexed task,
        address indexed target,
        uint8 status,
        bool succeeded,
        uint256 gasUsed,
        uint256 burnedWei,
        uint256 refundedWei
    );
    function pending() external view returns (uint32 reserved, uint32 waiting, uint256 prepaidWei);
    function getCallback(
        bytes32 task
    ) external view returns (address target, uint8 status, uint32 gas, uint256 prepaidWei, uint64 queuedBlock);
}

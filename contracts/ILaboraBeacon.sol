// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// @notice Randomness by height (the last 8,192 blocks).
/// @dev At 0x0000000000000000000000000000000000000a06. Generated from vm/system/abi.py.
interface ILaboraBeacon {
    function mixAt(uint64 height) external view returns (bytes32 mix);
    function latest() external view returns (uint64 height, bytes32 mix);
}

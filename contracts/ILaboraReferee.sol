// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// @notice Disputes: not active yet, every call reverts with `not active on this chain`.
/// @dev At 0x0000000000000000000000000000000000000A05. Generated from vm/system/abi.py.
interface ILaboraReferee {
}

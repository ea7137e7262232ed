// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {Mishap, Operator, Unbonding} from "./LaboraTypes.sol";

/// @notice Operators, their keys, bonds and the way out.
/// @dev At 0x0000000000000000000000000000000000000a01. Generated from vm/system/abi.py.
interface ILaboraStaking {
    event Registered(
        address indexed operator,
        address indexed consensusAddress,
        address indexed hot,
        bytes beaconKey,
        bytes32 nodeKey,
        address payout
    );
    event Bonded(address indexed operator, uint256 amount, uint256 bond);
    event Unbonded(address indexed operator, uint256 amount, uint256 bond, uint64 releaseBlock);
    event Withdrawn(address indexed operator, uint256 amount);
    event Activated(address indexed operator);
    event Deactivated(address indexed operator, string reason);
    event Slashed(
        address indexed operator,
        bytes32 indexed task,
        uint8 reason,
        uint256 amount,
        uint256 bond,
        uint256 unbonding
    );
    event PayoutChanged(address indexed operator, address payout);
    function register(
        address consensusAddress,
        bytes calldata consensusSignature,
        bytes calldata beaconKey,
        bytes calldata beaconProof,
        bytes32 nodeKey,
        address hot,
        bytes calldata hotSignature,
        address payout
    ) external payable;
    function bond() external payable;
    function unbond(uint256 amount) external;
    function withdraw() external returns (uint256 amount);
    function setPayout(address payout) external;
    function getOperator(address operator) external view returns (Operator memory info);
    function operatorByHot(address hot) external view returns (address operator);
    function operators() external view returns (address[] memory active);
    function unbondings(address operator) external view returns (Unbonding[] memory queue);
    function mishaps(
        address operator
    ) external view returns (Mishap[] memory misses, Mishap[] memory refusals, Mishap[] memory slashes);
}

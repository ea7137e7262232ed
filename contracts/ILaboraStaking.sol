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
    event CommissionDeclared(address indexed operator, uint16 basisPoints, uint64 fromEpoch);
    event Delegated(address indexed delegator, address indexed operator, uint256 amount, uint256 delegated);
    event Undelegated(
        address indexed delegator,
        address indexed operator,
        uint256 amount,
        uint256 delegated,
        uint64 releaseBlock
    );
    event Claimed(address indexed delegator, address indexed operator, uint256 amount);
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
    function declareCommission(uint16 basisPoints) external;
    function delegate(address operator) external payable;
    function undelegate(address operator, uint256 amount) external;
    function claim(address operator) external returns (uint256 amount);
    function getDelegation(
        address delegator,
        address operator
    ) external view returns (uint256 amount, uint256 rewards);
    function commission(
        address operator
    ) external view returns (bool declared, uint16 basisPoints, uint16 nextBasisPoints, uint64 nextFromEpoch);
    function getOperator(address operator) external view returns (Operator memory info);
    function operatorByHot(address hot) external view returns (address operator);
    function operators() external view returns (address[] memory active);
    function unbondings(address operator) external view returns (Unbonding[] memory queue);
    function mishaps(
        address operator
    ) external view returns (Mishap[] memory misses, Mishap[] memory refusals, Mishap[] memory slashes);
}

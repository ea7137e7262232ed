// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {Model, Serving, Terms} from "./LaboraTypes.sol";

/// @notice Models that tasks may name, and who serves them.
/// @dev At 0x0000000000000000000000000000000000000a02. Generated from vm/system/abi.py.
interface ILaboraModels {
    event ModelSuspended(bytes32 indexed model, uint64 indexed dispute);
    event TermsDeclared(
        address indexed operator,
        uint64 fromBlock,
        uint256 reservePrice,
        uint32 hoursUtc,
        uint8 refusedKinds,
        uint256 macsMax,
        bytes32[] refusedModels
    );
    event ModelRegistered(
        bytes32 indexed model,
        address indexed registrant,
        string name,
        string uri,
        string licence
    );
    event ServingStarted(address indexed operator, bytes32 indexed model, uint256 macsPerBlock);
    event ServingStopped(address indexed operator, bytes32 indexed model);
    function register(
        bytes32 model,
        string calldata name,
        string calldata uri,
        string calldata licence,
        bytes calldata record,
        bytes32 programRoot,
        uint32[] calldata stopIds,
        uint256 referenceMacsPerBlock
    ) external;
    function serve(bytes32 model, uint256 macsPerBlock) external;
    function stopServing(bytes32 model) external;
    function getModel(bytes32 model) external view returns (Model memory info);
    function isSuspended(bytes32 model) external view returns (bool suspended);
    function models() external view returns (bytes32[] memory ids);
    function servers(bytes32 model) external view returns (address[] memory operators);
    function getServing(address operator) external view returns (Serving[] memory models);
    function declare(
        uint256 reservePrice,
        uint32 hoursUtc,
        uint8 refusedKinds,
        uint256 macsMax,
        bytes32[] calldata refusedModels
    ) external;
    function getTerms(
        address operator
    ) external view returns (Terms memory now, Terms memory latest, uint64 latestFromBlock);
}

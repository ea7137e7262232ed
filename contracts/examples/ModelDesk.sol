// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {ILaboraModels} from "../ILaboraModels.sol";
import {Model} from "../LaboraTypes.sol";

/// @title Registers models for others, remembers who brought which, and says what a task of one would cost.
/// @notice An example of a contract that calls the Models account. Compile with `viaIR`: register has many arguments.
contract ModelDesk {
    ILaboraModels internal constant MODELS = ILaboraModels(0x0000000000000000000000000000000000000a02);

    /// What `labora model register` reads from a manifest. model: keccak256 of its bytes. record: of its shape, from
    /// which the chain derives what work costs. programRoot: what disputes open weights from (docs/openings.md).
    /// referenceMacsPerBlock: what deadlines count on.
    struct Manifest {
        bytes32 model;
        string name;
        string uri;
        string licence;
        bytes record;
        bytes32 programRoot;
        uint32[] stopIds;
        uint256 referenceMacsPerBlock;
    }

    event Brought(bytes32 indexed model, address indexed by);

    mapping(bytes32 => address) public broughtBy;

    /// Reverts with the chain's reason when the model is known or a number is out of bounds.
    function bring(Manifest calldata m) external {
        MODELS.register(
            m.model, m.name, m.uri, m.licence, m.record, m.programRoot, m.stopIds, m.referenceMacsPerBlock
        );
        broughtBy[m.model] = msg.sender;
        emit Brought(m.model, msg.sender);
    }

    /// Multiply-adds of generating `tokens` (at least 1) after a prompt of `prompt` tokens.
    function macs(bytes32 model, uint256 prompt, uint256 tokens) external view returns (uint256) {
        Model memory found = MODELS.getModel(model);
        uint256 fed = prompt + tokens - 1;
        return found.a * fed + found.b * ((fed * (fed + 1)) / 2) + found.c * tokens;
    }

    /// Whether a validator of the current set serves it.
    function isServed(bytes32 model) external view returns (bool) {
        return MODELS.getModel(model).servedBy > 0;
    }

    /// How many models the chain knows.
    function count() external view returns (uint256) {
        return MODELS.models().length;
    }
}

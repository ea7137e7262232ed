// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {TolerantOffer, TolerantRecord, TolerantTask} from "./LaboraTypes.sol";

/// @notice Float models on any engine: offered, asked, answered, paid on acceptance or silence; never verified.
/// @dev At 0x0000000000000000000000000000000000000a09. Generated from vm/system/abi.py.
interface ILaboraTolerant {
    event Offered(
        address indexed operator,
        string model,
        uint256 weiPerPromptByte,
        uint256 weiPerToken,
        uint32 promptBytesMax,
        uint32 tokensMax,
        uint32 deadlineBlocks
    );
    event OfferWithdrawn(address indexed operator);
    event TolerantAsked(
        bytes32 indexed task,
        address indexed asker,
        address indexed executor,
        string model,
        string prompt,
        uint32 maxTokens,
        uint32 temperatureQ16,
        uint8 topK,
        bytes32 seed,
        uint256 weiPerPromptByte,
        uint256 weiPerToken,
        uint256 escrow,
        uint64 lastBlock
    );
    event TolerantAnswered(
        bytes32 indexed task,
        address indexed executor,
        bytes tokens,
        uint256 fee,
        uint32 queueMs,
        uint32 totalMs,
        uint64 lastBlock
    );
    event TolerantAccepted(bytes32 indexed task, address indexed asker);
    event TolerantPaid(
        bytes32 indexed task,
        address indexed executor,
        bytes32 indexed receipt,
        bool accepted,
        address to,
        uint256 fee,
        uint256 executorWei,
        uint256 burnedWei,
        uint256 refundedWei
    );
    event TolerantRefused(
        bytes32 indexed task,
        address indexed executor,
        address indexed asker,
        string reason,
        uint256 burnedWei,
        uint256 refundedWei
    );
    event TolerantUnanswered(
        bytes32 indexed task,
        address indexed executor,
        address indexed asker,
        uint256 refundedWei
    );
    function offer(
        string calldata model,
        uint256 weiPerPromptByte,
        uint256 weiPerToken,
        uint32 promptBytesMax,
        uint32 tokensMax,
        uint32 deadlineBlocks
    ) external;
    function withdrawOffer() external;
    function ask(
        address executor,
        bytes32 model,
        string calldata prompt,
        uint32 maxTokens,
        uint32 temperatureQ16,
        uint8 topK,
        bytes32 seed
    ) external payable returns (bytes32 task);
    function answer(bytes32 task, bytes calldata tokens, uint32 queueMs, uint32 totalMs) external;
    function accept(bytes32 task) external;
    function refuse(bytes32 task, string calldata reason) external;
    function getOffer(address operator) external view returns (TolerantOffer memory offered);
    function offers() external view returns (TolerantOffer[] memory offered);
    function getTask(bytes32 task) external view returns (TolerantTask memory info);
    function openTasks(address operator) external view returns (TolerantTask[] memory tasks);
    function recordsOf(
        address account
    ) external view returns (TolerantRecord memory asExecutor, TolerantRecord memory asAsker);
}

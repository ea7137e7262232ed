// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {Batch, Duty, Task} from "./LaboraTypes.sol";

/// @notice Inference tasks: posted, dealt, answered, audited, settled.
/// @dev At 0x0000000000000000000000000000000000000a03. Generated from vm/system/abi.py.
interface ILaboraMarket {
    event TaskPosted(
        bytes32 indexed task,
        address indexed poster,
        bytes32 indexed model,
        bool canary,
        uint8 kind,
        bytes tokens,
        uint32 maxTokens,
        uint32 temperatureQ16,
        uint32 topK,
        uint8 assurance,
        uint32 deadlineBlocks,
        uint256 tipPerCwu,
        uint256 escrow,
        uint256 pricePerCwu,
        uint256 valueAtRisk,
        uint32 callbackGas,
        uint8 auditors
    );
    event TaskDealt(
        bytes32 indexed task,
        address indexed executor,
        uint8 attempt,
        address[] slots,
        bytes32 seed,
        bytes32 traceKey,
        uint32 slotBlocks,
        uint64 lastBlock
    );
    event DealDelayed(bytes32 indexed task, uint64 againBlock, string reason);
    event TaskMissed(
        bytes32 indexed task,
        address indexed operator,
        uint8 role,
        uint8 slot,
        bool counted,
        string code,
        string text
    );
    event TaskAnswered(
        bytes32 indexed task,
        address indexed executor,
        uint8 slot,
        bytes tokens,
        bytes32 outputHash,
        bytes32 commitment,
        uint32 queueMs,
        uint32 firstTokenMs,
        uint32 totalMs,
        bytes device
    );
    event AuditDrawn(bytes32 indexed task, uint8 round, address[] verifiers, uint64 lastBlock);
    event VerdictCommitted(bytes32 indexed task, address indexed verifier, bytes32 commitment);
    event RevealBegan(bytes32 indexed task, uint8 verdicts, uint64 lastBlock);
    event Revealed(bytes32 indexed task, address indexed sender, bytes32 root, uint32 bad, address[] opened);
    event TaskAgreed(
        bytes32 indexed task,
        address indexed executor,
        bytes32 root,
        address[] verifiers,
        uint64 settlesBlock
    );
    event TaskUnverified(bytes32 indexed task, string reason, uint64 settlesBlock);
    event TaskDisputed(
        bytes32 indexed task,
        address indexed executor,
        address indexed verifier,
        bytes32 executorRoot,
        bytes32 verifierRoot,
        uint32 executorBad,
        uint32 verifierBad
    );
    event TaskRefuted(
        bytes32 indexed task,
        address indexed executor,
        uint64 indexed dispute,
        uint8 attempt,
        uint8 reason,
        address next
    );
    event VerdictVoid(bytes32 indexed task, address indexed verifier, string reason);
    event TaskSettled(
        bytes32 indexed task,
        address indexed executor,
        bytes32 indexed receipt,
        uint8 status,
        uint256 macs,
        uint256 fee,
        uint256 executorWei,
        uint256 burnedWei,
        uint256 refundedWei
    );
    event Paid(
        bytes32 indexed task,
        address indexed operator,
        address indexed to,
        uint8 role,
        uint256 amount
    );
    event TaskRefunded(
        bytes32 indexed task,
        address indexed poster,
        uint256 amount,
        uint256 burnedWei,
        string reason
    );
    event WorkRefused(bytes32 indexed task, address indexed operator, uint8 kind, string code, string text);
    event ItemFailed(bytes32 indexed task, string step, string code, string text);
    event TrapSprung(
        bytes32 indexed task,
        address indexed executor,
        bytes32 salt,
        bytes32 trapRoot,
        address[] caught
    );
    event TrapPaid(
        bytes32 indexed task,
        address indexed operator,
        address indexed to,
        uint8 role,
        uint256 amount
    );
    event TaskCommissioned(bytes32 indexed task, uint16 batch, uint32 number, string name);
    event FundFilled(address indexed source, uint256 amount, uint256 fund);
    function post(
        uint8 kind,
        bytes32 model,
        bytes calldata tokens,
        uint32 maxTokens,
        uint32 temperatureQ16,
        uint32 topK,
        uint8 assurance,
        uint256 valueAtRisk,
        uint256 tipPerCwu,
        uint32 deadlineBlocks,
        uint32 callbackGas
    ) external payable returns (bytes32 task);
    function cancel(bytes32 task) external;
    function fillFund() external payable;
    function prologue(bytes32 parentHash, bytes calldata beaconProof) external;
    function quote(
        uint8 kind,
        bytes32 model,
        uint32 promptTokens,
        uint32 maxTokens,
        uint8 assurance,
        uint256 valueAtRisk,
        uint256 tipPerCwu,
        uint32 callbackGas
    ) external view returns (uint256 escrow, uint32 deadlineLeast, uint32 deadlineMost, uint8 auditors);
    function getTask(bytes32 task) external view returns (Task memory info);
    function openTasks(address operator) external view returns (Duty[] memory duties);
    function fund() external view returns (uint256 commissioned, uint256 auditReserve);
    function batches() external view returns (Batch[] memory commissioned);
    function taskCount() external view returns (uint64 posted);
}

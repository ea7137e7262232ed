// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {LaboraConsumer} from "../LaboraConsumer.sol";

/// @title Has a model continue what its listeners say, and gives one of them, by lot, what each has put in.
/// @notice An example of a contract that asks for inference, is called back, checks the answer that somebody hands in,
/// and uses the chain's randomness. Compile with `viaIR`.
contract Storyteller is LaboraConsumer {
    struct Story {
        address listener;
        uint8 status;
        bytes32 outputHash;
        bytes told;
    }

    event Asked(bytes32 indexed task, address indexed listener);
    event Ended(bytes32 indexed task, uint8 status, bytes32 outputHash, bytes32 receipt);
    event Told(bytes32 indexed task, bytes tokens);
    event Drawn(uint64 indexed height, address winner, uint256 prize);

    uint32 private constant CALLBACK_GAS = 120_000;

    bytes32 public immutable model;
    mapping(bytes32 => Story) public stories;
    address[] public listeners;
    uint64 public closed;

    constructor(bytes32 model_) {
        model = model_;
    }

    /// Ask for a continuation of these tokens. What is sent beyond the task's price goes into the lottery.
    function begin(bytes calldata tokens, uint32 maxTokens) external payable returns (bytes32 task) {
        task = _ask(Ask(0, model, tokens, maxTokens, 65_536, 40, 1, 0, 0, CALLBACK_GAS));
        stories[task].listener = msg.sender;
        if (closed == 0) listeners.push(msg.sender);
        emit Asked(task, msg.sender);
    }

    /// Hand in the tokens of an answer: anybody may, the hash decides.
    function tell(bytes32 task, bytes calldata tokens) external {
        Story storage story = stories[task];
        require(story.status == SETTLED || story.status == UNVERIFIED, "no answer yet");
        require(_isAnswer(tokens, story.outputHash), "these are not the tokens");
        story.told = tokens;
        emit Told(task, tokens);
    }

    /// No listener joins the lottery from here on; the next block decides it.
    function close() external {
        require(closed == 0 && listeners.length > 0, "nothing to close");
        closed = uint64(block.number);
    }

    /// Give everything to one listener, by the randomness of the block after the closing one.
    function draw() external returns (address winner) {
        require(closed != 0 && block.number > closed, "not closed, or not yet");
        uint64 height = closed + 1;
        winner = listeners[_random(height, "storyteller") % listeners.length];
        uint256 prize = address(this).balance;
        delete listeners;
        closed = 0;
        emit Drawn(height, winner, prize);
        (bool sent,) = winner.call{value: prize}("");
        require(sent, "the winner takes no coins");
    }

    function _onTask(bytes32 task, uint8 status, bytes32 outputHash, bytes32 receipt) internal override {
        stories[task].status = status;
        stories[task].outputHash = outputHash;
        emit Ended(task, status, outputHash, receipt);
    }
}

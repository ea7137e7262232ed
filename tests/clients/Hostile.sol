// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {LaboraConsumer} from "../../contracts/LaboraConsumer.sol";
import {ILaboraStaking} from "../../contracts/ILaboraStaking.sol";

/// A consumer that does in its callback what it was told to: everything that a callback must survive.
contract Hostile is LaboraConsumer {
    enum Deed { Nothing, Burn, Revert, HugeReturn, HugeRevert, Post, Cancel, Fill, Bond, Empty, Recurse, Logs }

    Deed public deed;
    uint256 public calls;
    uint256 public survived;
    bytes32 public last;
    uint8 public status;
    bytes32 private _model;

    function ask(Deed deed_, bytes32 model, bytes calldata tokens, uint256 tip, uint32 gas_, uint8 assurance)
        external
        payable
        returns (bytes32 task)
    {
        deed = deed_;
        _model = model;
        task = _ask(Ask(0, model, tokens, 8, 0, 0, assurance, 0, tip, gas_));
    }

    function cancel(bytes32 task) external {
        MARKET.cancel(task);
    }

    /// Called by the callback's own helper, one level deeper each time.
    function recurse(uint256 depth) external returns (uint256) {
        return depth == 0 ? 0 : this.recurse(depth - 1) + 1;
    }

    function _onTask(bytes32 task, uint8 status_, bytes32, bytes32) internal override {
        calls += 1;
        last = task;
        status = status_;
        if (deed == Deed.Burn) while (true) {}
        if (deed == Deed.Revert) revert("no");
        if (deed == Deed.HugeReturn) assembly { return(0, 80000) }
        if (deed == Deed.HugeRevert) assembly { revert(0, 80000) }
        if (deed == Deed.Post) _ask(Ask(0, _model, hex"00000005", 8, 0, 0, 0, 0, 0, 100000));
        if (deed == Deed.Cancel) MARKET.cancel(task);
        if (deed == Deed.Fill) MARKET.fillFund{value: 1}();
        if (deed == Deed.Bond) ILaboraStaking(0x0000000000000000000000000000000000000a01).bond{value: 1}();
        if (deed == Deed.Empty) {
            (bool sent,) = address(0xdead).call{value: address(this).balance}("");
            sent;
        }
        if (deed == Deed.Recurse) this.recurse(1000);
        if (deed == Deed.Logs) for (uint256 i = 0; i < 10000; i++) emit Noise(i);
        survived += 1;
    }

    event Noise(uint256 number);
}

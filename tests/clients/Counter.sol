// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// Counts; what the client tests deploy, call, revert and listen to.
contract Counter {
    uint256 public count;

    event Incremented(address indexed by, uint256 amount, uint256 count);

    error TooMuch(uint256 amount, uint256 most);

    function increment(uint256 amount) external returns (uint256) {
        if (amount > 1000) revert TooMuch(amount, 1000);
        require(amount > 0, "amount is zero");
        count += amount;
        emit Incremented(msg.sender, amount, count);
        return count;
    }
}

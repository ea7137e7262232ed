"""The system accounts as Solidity sees them: interfaces and ABI JSON, generated from vm.system.abi (generate.py)."""

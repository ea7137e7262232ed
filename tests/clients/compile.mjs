// node compile.mjs: writes Counter.json (abi, bytecode) from Counter.sol.
import fs from "node:fs";
import solc from "solc";

const input = {
  language: "Solidity",
  sources: { "Counter.sol": { content: fs.readFileSync("Counter.sol", "utf8") } },
  settings: {
    evmVersion: "prague",
    optimizer: { enabled: true, runs: 200 },
    metadata: { bytecodeHash: "none" },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const error of output.errors ?? []) console.error(error.formattedMessage);
const contract = output.contracts["Counter.sol"].Counter;
const artifact = { abi: contract.abi, bytecode: "0x" + contract.evm.bytecode.object };
fs.writeFileSync("Counter.json", JSON.stringify(artifact, null, 1) + "\n");

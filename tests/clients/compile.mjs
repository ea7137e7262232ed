// node compile.mjs [--check]: writes NAME.json (abi, bytecode, runtime bytecode) of each contract below from its source,
// or says whether they are as they would be written.
import fs from "node:fs";
import solc from "solc";

const CONTRACTS = [
  { name: "Counter", path: "tests/clients/Counter.sol", viaIR: false },
  { name: "ModelDesk", path: "contracts/examples/ModelDesk.sol", viaIR: true },
  { name: "ReceiptWatcher", path: "contracts/examples/ReceiptWatcher.sol", viaIR: true },
  { name: "Storyteller", path: "contracts/examples/Storyteller.sol", viaIR: true },
  { name: "Hostile", path: "tests/clients/Hostile.sol", viaIR: true },
  { name: "SolidityReferee", path: "contracts/SolidityReferee.sol", viaIR: true, target: "../../contracts/" },
];
const read = (path) => fs.readFileSync(new URL("../../" + path, import.meta.url), "utf8");
let stale = false;

for (const { name, path, viaIR, target: folder = "" } of CONTRACTS) {
  const input = {
    language: "Solidity",
    sources: { [path]: { content: read(path) } },
    settings: {
      evmVersion: "prague",
      viaIR,
      optimizer: { enabled: true, runs: 200 },
      metadata: { bytecodeHash: "none" },
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: (path) => ({ contents: read(path) }) }));
  for (const error of output.errors ?? []) console.error(error.formattedMessage);
  const { abi, evm } = output.contracts[path][name];
  const artifact = { abi, bytecode: "0x" + evm.bytecode.object, runtime: "0x" + evm.deployedBytecode.object };
  const text = JSON.stringify(artifact, null, 1) + "\n";
  const target = new URL(folder + name + ".json", import.meta.url);
  if (process.argv.includes("--check")) {
    if (fs.readFileSync(target, "utf8") === text) continue;
    console.error(`${name}.json is not what its source gives: node compile.mjs`);
    stale = true;
  } else fs.writeFileSync(target, text);
}
process.exit(stale ? 1 : 0);

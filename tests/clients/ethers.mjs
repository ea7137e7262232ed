// node ethers.mjs RPC WS KEY: everything a dApp does, through ethers v6; prints one JSON line.
import fs from "node:fs";
import { Contract, ContractFactory, JsonRpcProvider, Wallet, WebSocketProvider, parseEther } from "ethers";

const [rpc, ws, key] = process.argv.slice(2);
const artifact = JSON.parse(fs.readFileSync(new URL("Counter.json", import.meta.url)));
const provider = new JsonRpcProvider(rpc, undefined, { pollingInterval: 200 });
const wallet = new Wallet(key, provider);
const to = Wallet.createRandom().address;

const heads = new WebSocketProvider(ws);
const head = new Promise((resolve) => heads.once("block", resolve));

const sent = {};
for (const [name, type] of [["legacy", 0], ["accessList", 1], ["dynamicFee", 2]]) {
  const response = await wallet.sendTransaction({ to, value: parseEther("0.5"), type });
  const receipt = await response.wait();
  sent[name] = receipt.status;
}
const contract = await new ContractFactory(artifact.abi, artifact.bytecode, wallet).deploy();
await contract.waitForDeployment();

const listener = new Contract(await contract.getAddress(), artifact.abi, heads);
const event = new Promise((resolve) => listener.once("Incremented", (by, amount, count) => resolve(Number(count))));
await head;
await (await contract.increment(7)).wait();
let custom, reason;
try { await contract.increment.staticCall(5000); } catch (error) { custom = error.revert?.name; }
try { await contract.increment(0); } catch (error) { reason = error.reason; }
const logs = await contract.queryFilter(contract.filters.Incremented(), 0, "latest");

console.log(JSON.stringify({
  sent,
  balance: (await provider.getBalance(to)).toString(),
  count: Number(await contract.count()),
  custom,
  reason,
  logs: logs.length,
  event: await event,
  head: (await head) > 0,
}));
await heads.destroy();
provider.destroy();

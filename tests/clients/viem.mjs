// node viem.mjs RPC WS KEY: everything a dApp does, through viem; prints one JSON line.
import fs from "node:fs";
import { createPublicClient, createWalletClient, defineChain, http, parseEther, webSocket } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

const [rpc, ws, key] = process.argv.slice(2);
const artifact = JSON.parse(fs.readFileSync(new URL("Counter.json", import.meta.url)));
const probe = createPublicClient({ transport: http(rpc) });
const chain = defineChain({
  id: await probe.getChainId(),
  name: "Labora",
  nativeCurrency: { name: "Labora", symbol: "LAB", decimals: 18 },
  rpcUrls: { default: { http: [rpc], webSocket: [ws] } },
});
const client = createPublicClient({ chain, transport: http(rpc), pollingInterval: 200 });
const socket = createPublicClient({ chain, transport: webSocket(ws) });
const account = privateKeyToAccount(key);
const wallet = createWalletClient({ account, chain, transport: http(rpc) });
const to = privateKeyToAccount(generatePrivateKey()).address;

const head = new Promise((resolve) => {
  const stop = socket.watchBlocks({ onBlock: (block) => { stop(); resolve(block.number); } });
});
const sent = {};
for (const type of ["legacy", "eip2930", "eip1559"]) {
  const hash = await wallet.sendTransaction({ to, value: parseEther("0.5"), type });
  sent[type] = (await client.waitForTransactionReceipt({ hash })).status;
}
const deployed = await wallet.deployContract({ abi: artifact.abi, bytecode: artifact.bytecode });
const { contractAddress: address } = await client.waitForTransactionReceipt({ hash: deployed });
const contract = { address, abi: artifact.abi };

const event = new Promise((resolve) => {
  const stop = socket.watchContractEvent({
    ...contract, eventName: "Incremented", onLogs: (logs) => { stop(); resolve(Number(logs[0].args.count)); },
  });
});
await head;
const { request } = await client.simulateContract({ ...contract, functionName: "increment", args: [7n], account });
await client.waitForTransactionReceipt({ hash: await wallet.writeContract(request) });
let custom, reason;
try {
  await client.simulateContract({ ...contract, functionName: "increment", args: [5000n], account });
} catch (error) { custom = error.walk((e) => e.data?.errorName)?.data.errorName; }
try {
  await client.simulateContract({ ...contract, functionName: "increment", args: [0n], account });
} catch (error) { reason = error.walk((e) => e.reason)?.reason; }
const logs = await client.getContractEvents({ ...contract, eventName: "Incremented", fromBlock: 0n });

console.log(JSON.stringify({
  sent,
  balance: (await client.getBalance({ address: to })).toString(),
  count: Number(await client.readContract({ ...contract, functionName: "count" })),
  custom,
  reason,
  logs: logs.length,
  event: await event,
  head: (await head) > 0n,
}));
process.exit(0);

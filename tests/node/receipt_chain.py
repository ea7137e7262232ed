"""Four validators' chain in memory, behind the real JSON-RPC methods: tasks are dealt, answered, checked and settled by
the real rules. No model runs: the rules see hashes alone, so any root will do that everybody agrees on."""

from typing import Any

import orjson
import trio

from chain.builder import BuildRequest
from chain.kv import MemoryKV
from chain.ledger import Ledger
from chain.mempool import Mempool
from consensus.bft.certificate import commit_certificate
from genesis.keys import ACCOUNT_KEYS, devnet_validator
from genesis.spec import devnet_spec, load_spec
from node.client import RpcFailure, to_hex
from primitives import bls
from primitives.address import MARKET, REFEREE, TOLERANT, created_by
from primitives.block import EMPTY_LAST_COMMIT
from primitives.hashing import keccak
from primitives.keys import address_of, sign
from primitives.merkle import pack_tokens
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    Reveal,
    Submission,
    Verdict,
    WorkItem,
    encode_batch,
    encode_texts,
    execution_commitment,
    result_length,
    tolerant_task_id,
    verdict_commitment,
)
from primitives.transaction import sign_transaction
from primitives.vote import Vote, VoteType, encode_last_commit, sign_bytes
from rpc.context import Context
from rpc.dispatch import Dispatcher
from rpc.filters import Filters
from rpc.registry import registry
from tests.coins import watch
from vm.system import abi, views
from vm.system.tolerant_state import ASKED as TOLERANT_ASKED

GENESIS_TIME_MS = 1_700_000_000_000
VALIDATORS = 4


class ReceiptChain:
    """Also a client: `call` as node.client.Client."""

    url = "in memory"

    def __init__(self, **params: int) -> None:
        self.keys = [devnet_validator(index) for index in range(VALIDATORS)]
        self.ledger = Ledger.open(MemoryKV(), load_spec(devnet_spec(VALIDATORS, GENESIS_TIME_MS, params=params)))
        watch(self.ledger, [keys.operator_address for keys in self.keys])
        self.mempool = Mempool(self.ledger)
        self.ledger.on_commit.append(self.mempool.committed)
        self._dispatcher = Dispatcher(registry())
        self._context = Context(self, Filters(), registry().namespaces)  # type: ignore[arg-type]
        listed = views.models(self.ledger.reader(), self.ledger.params, 1)[0]
        self.model, self.width = listed.model_id, listed.width
        self.lazy: set[bytes] = set()
        """Operators that do nothing."""
        self.liars: set[bytes] = set()
        """Executors whose roots nobody else gets, and who do not defend them."""

    @property
    def height(self) -> int:
        return self.ledger.head.number

    def call(self, method: str, *params: Any) -> Any:
        """As over HTTP: JSON there and back. Raises RpcFailure."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = orjson.loads(trio.run(self._dispatcher.answer, body, self._context))
        if (failure := answer.get("error")) is not None:
            raise RpcFailure(method, failure["code"], failure["message"], failure.get("data"))
        return answer["result"]

    def number(self, method: str, *params: Any) -> int:
        return int(self.call(method, *params), 16)

    def read_contract(self, to: bytes, data: bytes) -> bytes:
        return bytes.fromhex(self.call("eth_call", {"to": to_hex(to), "data": to_hex(data)}, "latest")[2:])

    def block(self, count: int = 1) -> None:
        """Blocks, signed by everybody, with everything that waits."""
        for _ in range(count):
            head, keys = self.ledger.head, self.keys[self.height % VALIDATORS]
            certificate = self.ledger.certificate(head.number)
            message = bls.beacon_message(self.ledger.genesis_hash, views.mix(self.ledger.reader()), head.number + 1)
            request = BuildRequest(
                round=0, time_ms=head.sidecar.time_ms + 1_000, proposer=keys.operator_address,
                beacon_proof=bls.sign(keys.beacon, message),
                last_commit=EMPTY_LAST_COMMIT if certificate is None else encode_last_commit(certificate),
                should_stop=lambda: False,
            )  # fmt: skip
            block = self.ledger.build(request, self.mempool)
            vote = Vote(VoteType.PRECOMMIT, block.number, 0, block.hash)
            members = self.ledger.validator_set(block.number)
            signed = sign_bytes(self.ledger.sign_context, vote)
            by_operator = {each.operator_address: each for each in self.keys}
            signatures = {
                index: sign(signed, by_operator[member.operator].consensus)
                for index, member in enumerate(members.validators)
            }
            self.ledger.commit(block, commit_certificate(members, block.number, 0, block.hash, signatures))

    def post(self, prompt: tuple[int, ...] = tuple(range(40, 48)), most: int = 8, **asked: int) -> None:
        """Ask for tokens; account 0 pays."""
        quote = abi.QUOTE.encode_call(0, self.model, len(prompt), most, 0, 0, 0, 0)
        shown = self.call("eth_call", {"to": to_hex(MARKET), "data": to_hex(quote)}, "latest")
        escrow, least, *_ = abi.QUOTE.decode_result(bytes.fromhex(shown[2:]))
        values = pack_tokens(prompt), most, asked.get("temperature_q16", 1 << 16), 0, asked.get("assurance", 0)
        data = abi.POST.encode_call(0, self.model, *values, 0, 0, max(least, 30), 0)
        self._send(ACCOUNT_KEYS[0], data, 2 * escrow, 2_000_000)

    def offer(self, name: str, byte_wei: int, token_wei: int) -> None:
        """Validator 0 offers a float model in the tolerant lane."""
        data = abi.MAKE_OFFER.encode_call(name, byte_wei, token_wei, 1_000, 64, 8)
        self._send(self.keys[0].hot, data, 0, 200_000, to=TOLERANT)

    def ask(self, name: str, prompt: str, most: int, value: int) -> bytes:
        """Ask validator 0 in the tolerant lane; account 0 pays. The task."""
        executor, sequence = self.keys[0].operator_address, TOLERANT_ASKED.get(views.ViewContext(self.ledger.reader()))
        data = abi.ASK.encode_call(executor, keccak(name.encode()), prompt, most, 1 << 16, 20, keccak(b"seed"))
        self._send(ACCOUNT_KEYS[0], data, value, 400_000, to=TOLERANT)
        return tolerant_task_id(self.ledger.params.chain_id, sequence)

    def answer(self, task: bytes, tokens: tuple[str, ...]) -> None:
        """Validator 0 answers in the tolerant lane."""
        data = abi.ANSWER.encode_call(task, encode_texts(tokens), 3, 40)
        self._send(self.keys[0].hot, data, 0, 300_000, to=TOLERANT)

    def decide(self, function: abi.Function, *arguments: Any) -> None:
        """Account 0 accepts or refuses."""
        self._send(ACCOUNT_KEYS[0], function.encode_call(*arguments), 0, 300_000, to=TOLERANT)

    def work(self) -> None:
        """Everybody does what it owes in the next block."""
        params, height = self.ledger.params, self.height + 1
        for keys in self.keys:
            operator = keys.operator_address
            items: list[WorkItem] = []
            for duty in views.open_tasks(self.ledger.reader(), operator, params, height):
                if operator in self.lazy or not duty.first_block <= height <= duty.last_block:
                    continue
                root, view = keccak(b"trace" + duty.task), views.task(self.ledger.reader(), duty.task)
                assert view is not None
                if operator in self.liars and (duty.role == abi.ROLE_EXECUTE or operator == view.executor):
                    root = keccak(b"lie" + duty.task)
                if duty.role == abi.ROLE_CHALLENGE:
                    self._send(keys.hot, abi.CHALLENGE.encode_call(duty.task, 0), 0, 1_500_000, to=REFEREE)
                    continue
                if duty.role == abi.ROLE_EXECUTE:
                    asked = views.task(self.ledger.reader(), duty.task)
                    assert asked is not None
                    length = result_length(Kind(duty.kind), asked.prompt_tokens, duty.max_tokens, self.width)
                    tokens = tuple(range(50, 50 + length))
                    commitment = execution_commitment(duty.task, operator, root)
                    items.append(Submission(duty.task, tokens, commitment, 1, 20, 300, b"memory"))
                elif duty.role == abi.ROLE_AUDIT:
                    items.append(Verdict(duty.task, verdict_commitment(duty.task, operator, NO_BAD_POSITION, root)))
                else:
                    items.append(Reveal(duty.task, root, NO_BAD_POSITION))
            if items:
                self._send(keys.hot, abi.WORK.encode_call(encode_batch(items)), 0, 1_500_000)

    def run(self, blocks: int) -> None:
        """So many blocks in which everybody works."""
        for _ in range(blocks):
            self.work()
            self.block()

    def create(self, code: bytes) -> str:
        """Address of a contract that account 1 makes of this code."""
        nonce = self._send(ACCOUNT_KEYS[1], code, 0, 4_000_000, to=b"")
        self.block()
        made = to_hex(created_by(address_of(ACCOUNT_KEYS[1]), nonce))
        assert self.call("eth_getCode", made, "latest") != "0x"
        return made

    def transact(self, to: str, data: bytes) -> int:
        """Call a contract in the next block; gas used. Raises RpcFailure when it reverts."""
        call = {"from": to_hex(address_of(ACCOUNT_KEYS[1])), "to": to, "data": to_hex(data)}
        self.call("eth_call", call, "latest")
        self._send(ACCOUNT_KEYS[1], data, 0, 3_000_000, to=bytes.fromhex(to[2:]))
        self.block()
        receipt = self.call("eth_getBlockReceipts", "latest")[-1]
        assert receipt["status"] == "0x1"
        return int(receipt["gasUsed"], 16)

    def _send(self, key: bytes, data: bytes, value: int, gas: int, to: bytes = MARKET) -> int:
        nonce = self.mempool.next_nonce(address_of(key))
        fee = 2 * self.ledger.next_base_fee() + 10**9
        transaction = sign_transaction(
            key, chain_id=self.ledger.params.chain_id, nonce=nonce, gas=gas, to=to, max_fee_per_gas=fee,
            max_priority_fee_per_gas=10**9, value=value, data=data,
        )  # fmt: skip
        self.mempool.add(transaction.raw, GENESIS_TIME_MS)
        return nonce

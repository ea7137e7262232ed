"""Compute receipts as a bill: CSV in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

Owns which column says what. What FOCUS has no column for has an x_ one, as it asks for. Amounts are in coins, exact.
"""

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from node.client import to_hex
from node.receipts import CLASSES, LANES, METHODS, OUTCOMES, Account
from primitives.params import COIN, CWU
from primitives.task import Kind

FOCUS_VERSION = "1.2"
CURRENCY = "XXX"
"""ISO 4217's code for no currency: FOCUS wants a national one for bills, and a chain's coin is none."""
PROVIDER = "Labora"
CATEGORY = "AI and Machine Learning"
SUBCATEGORY = {Kind.GENERATE: "Generative AI", Kind.EMBED: "Machine Learning", Kind.SCORE: "Machine Learning"}
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice",
    "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuPriceId",
    "SubAccountId", "SubAccountName", "Tags",
    "x_Task", "x_Block", "x_Class", "x_Lane", "x_Model", "x_Executor", "x_Verifiers", "x_VerificationMethod",
    "x_VerificationOutcome", "x_PromptTokens", "x_OutputTokens", "x_PrefillCwu", "x_DecodeCwu", "x_PrefillBytes",
    "x_DecodeBytes", "x_FeeWei", "x_SelfReportedTotalMs", "x_SelfReportedDevice",
)  # fmt: skip


def write(accounts: Iterable[tuple[Account, int]], chain: str, file: TextIO) -> int:
    """Write receipts with their blocks' timestamps (seconds) as CSV; how many. chain: what the region is called."""
    out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    out.writeheader()
    rows = 0
    for account, timestamp in accounts:
        out.writerow(row(account, timestamp, chain))
        rows += 1
    return rows


def row(account: Account, timestamp: int, chain: str) -> dict[str, str]:
    """One receipt. Billed and effective is everything that left the payer's escrow for the work (execution, checks,
    tips, the gas of messages; of commissioned work: the fund's); list and contracted cost is the execution fee at the
    price of its post. Work of the tolerant lane has no CWU: it is consumed in tokens and priced as one task."""
    r = account.receipt
    paid = account.paid_wei
    prefill, decode = r["prefillMacs"], r["decodeMacs"]
    quantity, kind = _cwu(prefill + decode), Kind(r["kind"])
    when = datetime.fromtimestamp(timestamp, UTC)
    month = when.replace(day=1, hour=0, minute=0, second=0)
    next_month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    price, fee = _coins(r["pricePerCwu"]), _coins(r["fee"])
    values: dict[str, Any] = {
        "BilledCost": _coins(paid), "BillingAccountId": r["payer"], "BillingAccountName": r["payer"],
        "BillingCurrency": CURRENCY, "BillingPeriodStart": _iso(month), "BillingPeriodEnd": _iso(next_month),
        "ChargeCategory": "Usage", "ChargeClass": "",
        "ChargeDescription": f"{kind.name.lower()}: {r['promptTokens']} {'bytes' if account.is_tolerant else 'tokens'} "
                             f"in, {r['outputTokens']} {'tokens ' if account.is_tolerant else ''}out",
        "ChargeFrequency": "Usage-Based", "ChargePeriodStart": _iso(when),
        "ChargePeriodEnd": _iso(datetime.fromtimestamp(timestamp + 1, UTC)),
        "ConsumedQuantity": quantity, "ConsumedUnit": "CWU", "ContractedCost": fee, "ContractedUnitPrice": price,
        "EffectiveCost": _coins(paid), "InvoiceId": to_hex(r["receipt"]), "InvoiceIssuerName": PROVIDER,
        "ListCost": fee, "ListUnitPrice": price, "PricingCategory": "Dynamic", "PricingQuantity": quantity,
        "PricingUnit": "CWU", "ProviderName": PROVIDER, "PublisherName": PROVIDER, "RegionId": chain,
        "RegionName": chain, "ResourceId": to_hex(r["task"]), "ResourceName": "", "ResourceType": "Inference task",
        "ServiceCategory": CATEGORY, "ServiceName": f"{LANES[r['lane']].capitalize()} inference",
        "ServiceSubcategory": SUBCATEGORY[kind],
        "SkuId": to_hex(r["model"]), "SkuPriceId": f"{to_hex(r['model'])}/{kind.name.lower()}", "SubAccountId": "",
        "SubAccountName": "", "Tags": "{}", "x_Task": to_hex(r["task"]), "x_Block": account.block,
        "x_Class": CLASSES[r["class"]], "x_Lane": LANES[r["lane"]], "x_Model": to_hex(r["model"]),
        "x_Executor": r["executor"],
        "x_Verifiers": " ".join(r["verifiers"]), "x_VerificationMethod": METHODS[r["verification"]],
        "x_VerificationOutcome": OUTCOMES[r["outcome"]], "x_PromptTokens": r["promptTokens"],
        "x_OutputTokens": r["outputTokens"], "x_PrefillCwu": _cwu(prefill), "x_DecodeCwu": _cwu(decode),
        "x_PrefillBytes": r["prefillBytes"], "x_DecodeBytes": r["decodeBytes"], "x_FeeWei": r["fee"],
        "x_SelfReportedTotalMs": r["totalMs"],
        "x_SelfReportedDevice": r["device"].decode("utf-8", "replace").replace("\x00", ""),
    }  # fmt: skip
    if account.is_tolerant:
        values |= {"ConsumedQuantity": r["outputTokens"], "ConsumedUnit": "Tokens", "PricingQuantity": 1,
                   "PricingUnit": "Tasks", "ListUnitPrice": fee, "ContractedUnitPrice": fee}  # fmt: skip
    return {name: _plain(str(values[name])) for name in COLUMNS}


def _coins(wei: int) -> str:
    return f"{wei // COIN}.{wei % COIN:018d}"


def _cwu(macs: int) -> str:
    return f"{macs // CWU}.{macs % CWU:09d}"


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(text: str) -> str:
    """No cell begins as a spreadsheet's formula does: a device's name is anybody's text."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text

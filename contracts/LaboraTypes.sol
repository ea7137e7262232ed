// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

// Generated from vm/system/abi.py.

struct Operator {
    address operator;
    address consensusAddress;
    bytes beaconKey;
    bytes32 nodeKey;
    address hot;
    address payout;
    uint256 bond;
    uint256 unbonding;
    bool active;
    bool jailed;
    uint64 registeredBlock;
    uint256 delegated;
}

struct Unbonding {
    uint256 amount;
    uint64 releaseBlock;
    address delegatedTo;
}

struct Mishap {
    bytes32 task;
    uint64 blockNumber;
    uint8 reason;
    uint8 role;
    bool counted;
    uint256 amount;
}

struct Model {
    bytes32 model;
    string name;
    bool listed;
    uint256 a;
    uint256 b;
    uint256 c;
    uint32 vocabulary;
    uint32 context;
    uint32 width;
    bool encoder;
    uint32 auditWeightNum;
    uint32 auditWeightDen;
    uint256 referenceMacsPerBlock;
    uint32[] stopIds;
    address registrant;
    uint32 servedBy;
    uint256 servedBond;
    bytes record;
    bytes32 programRoot;
}

struct Serving {
    bytes32 model;
    uint256 declaredMacsPerBlock;
    uint256 bestMacsPerBlock;
    uint32 scaleQ16;
    uint32 dealt;
    uint32 missed;
}

struct Terms {
    uint256 reservePrice;
    uint32 hoursUtc;
    uint8 refusedKinds;
    uint256 macsMax;
    bytes8[] refusedModels;
}

struct Task {
    bytes32 task;
    uint8 status;
    uint8 kind;
    uint8 attempt;
    bool canary;
    address poster;
    bytes32 model;
    bytes32 promptHash;
    bytes32 outputHash;
    bytes32 seed;
    uint32 promptTokens;
    uint32 outputTokens;
    uint32 maxTokens;
    uint32 temperatureQ16;
    uint32 topK;
    uint8 assurance;
    uint8 auditors;
    uint32 deadlineBlocks;
    uint64 postedBlock;
    uint64 dealtBlock;
    uint64 answeredBlock;
    uint64 drawnBlock;
    uint64 revealingBlock;
    uint64 agreedBlock;
    uint64 doneBlock;
    address[] slots;
    address executor;
    address[] verifiers;
    bytes32 executorRoot;
    bytes32 otherRoot;
    uint32 bad;
    uint256 escrow;
    uint256 pricePerCwu;
    bytes32 receipt;
    uint8 disputes;
}

struct Duty {
    uint8 role;
    uint8 kind;
    bytes32 task;
    bytes32 model;
    bytes32 promptHash;
    bytes32 outputHash;
    bytes32 seed;
    bytes32 traceKey;
    uint32 maxTokens;
    uint32 temperatureQ16;
    uint32 topK;
    uint8 slot;
    uint64 firstBlock;
    uint64 lastBlock;
    uint64 postedBlock;
    uint64 answeredBlock;
    address executor;
    bytes32 commitment;
}

struct Batch {
    string name;
    bytes32 model;
    uint8 kind;
    uint32 prompts;
    uint32 commissioned;
}

struct Totals {
    uint256 minted;
    uint256 burnedFees;
    uint256 burnedCallbacks;
    uint256 burnedExpiry;
    uint256 burnedSlashes;
    uint64 settled;
    uint64 unverified;
    uint64 canaries;
    uint64 refunded;
    uint256 macsPaid;
    uint256 macsCommissioned;
    uint256 macsCanary;
    uint64 tolerant;
}

struct Member {
    address operator;
    uint256 power;
    uint256 target;
    uint256 credit;
    uint256 bond;
}

struct Dispute {
    uint64 dispute;
    bytes32 task;
    uint8 attempt;
    uint8 state;
    uint8 turn;
    uint8 reason;
    address accused;
    address challenger;
    address operator;
    bool fromStake;
    uint256 bond;
    uint32 leaf;
    bytes32 leafHash;
    bytes32 operations;
    address author;
    uint256 authorBond;
    uint32 op;
    bytes32 node;
    uint8 level;
    uint32 index;
    uint32 count;
    uint64 filedBlock;
    uint64 begunBlock;
    uint64 lastBlock;
    uint32 defenderLeft;
    uint32 challengerLeft;
    bool defenderSpoke;
    bool challengerSpoke;
}

struct TolerantOffer {
    address operator;
    string model;
    uint256 weiPerPromptByte;
    uint256 weiPerToken;
    uint32 promptBytesMax;
    uint32 tokensMax;
    uint32 deadlineBlocks;
    uint64 offeredBlock;
}

struct TolerantTask {
    bytes32 task;
    uint8 status;
    address asker;
    address executor;
    bytes32 model;
    bytes32 promptHash;
    bytes32 outputHash;
    bytes32 seed;
    uint32 promptBytes;
    uint32 maxTokens;
    uint32 tokens;
    uint256 weiPerPromptByte;
    uint256 weiPerToken;
    uint256 escrow;
    uint64 askedBlock;
    uint64 lastBlock;
}

struct TolerantRecord {
    uint32 accepted;
    uint32 unopposed;
    uint32 refused;
    uint32 unanswered;
    uint256 paidWei;
}

//! What to do about a reason code, and how useful it is to know it first. One table for the codes of `reasons.rs`, for those that
//! the gateway and the workers give, and for those that Kubernetes gives about a worker's pod. `docs/reasons.md` has the same
//! lines; a test keeps both equal.
//!
//! `<name>` and `<namespace>` stand for the object at hand; `kubectl grid why` fills them in.

use serde::Serialize;

/// Kinds of causes in the order in which it helps to hear of them: what only a person can mend comes first, what mends itself last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Tier {
    /// Something that was written down is wrong or missing; it stays so until somebody changes it.
    Misconfigured,
    /// A rule or a decision of a person or of the grid says no.
    Refused,
    /// Something outside does not answer, or does not work; it is tried again.
    Unavailable,
    /// Nothing that exists can take the work.
    NoMatchingNode,
    /// What could take the work is busy or not ready yet.
    WaitingForCapacity,
    /// A queue or quota holds it back.
    WaitingForQuota,
    /// It goes on.
    Running,
    /// The work is done; results or reports are on their way.
    Publishing,
    /// Nothing is wrong.
    Fine,
}

impl Tier {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Tier::Misconfigured => "misconfigured",
            Tier::Refused => "refused",
            Tier::Unavailable => "unavailable",
            Tier::NoMatchingNode => "no matching node",
            Tier::WaitingForCapacity => "waiting for capacity",
            Tier::WaitingForQuota => "waiting for quota",
            Tier::Running => "running",
            Tier::Publishing => "publishing",
            Tier::Fine => "fine",
        }
    }
}

/// What to do about one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    pub code: &'static str,
    pub tier: Tier,
    /// Of a code in the first two tiers: whether things may go on without anybody's doing. So it is with what somebody decided on purpose,
    /// what the cluster may mend by itself, what is tried or challenged again, and what another object already says of itself.
    pub may_pass: bool,
    /// Sentences; commands in back quotes.
    pub text: &'static str,
}

/// The line of a code; none for a code that nobody wrote down.
pub fn of(code: &str) -> Option<&'static Remedy> {
    REMEDIES.iter().find(|remedy| remedy.code == code)
}

/// Whether nothing goes on until somebody acts. A code that nobody wrote down (a newer gateway's) may pass.
pub fn needs_a_person(code: &str) -> bool {
    of(code).is_some_and(|remedy| remedy.tier <= Tier::Refused && !remedy.may_pass)
}

macro_rules! remedies {
    ($($tier:ident { $($code:ident $(($pass:ident))?: $text:literal,)* })*) => {
        /// Every code that has a line.
        pub const REMEDIES: &[Remedy] = &[
            $($(Remedy { code: stringify!($code), tier: Tier::$tier, may_pass: $(remedies!(@ $pass) ||)? false, text: $text },)*)*
        ];
    };
    (@ may_pass) => { true };
}

remedies! {
    Misconfigured {
        // References and specs.
        NetworkNotFound: "Name an existing network in spec.networkRef (`kubectl get gridnetworks`), or create this one.",
        ModelNotFound: "Correct spec.workload.modelRef.name in a new job (`kubectl get gridmodels`), or create the GridModel; the job then goes on by itself.",
        InvalidObject: "The message names the field. Correct it with `kubectl edit`; an object of an older version may need to be made anew.",
        InvalidInput: "The message names the line or the field. The workload of a job never changes: correct it and submit a new job.",
        InputNotFound: "Create the ConfigMap with that key in <namespace>; the job looks again every few seconds.",
        InputDigestMismatch: "Put the file's own sha256 (`sha256sum FILE`) into a new job, or restore the file.",
        InputTooLarge: "Split the input into several jobs.",
        OutputTooLarge: "Split the input into several jobs, lower maxTokens, or name an output that holds more than a ConfigMap.",
        OutputConflict: "Delete the ConfigMap that the message names, or name another one in a new job.",
        InvalidJson: "Correct the line; every line of an OpenAI batch is one JSON object.",
        InvalidText: "Save the input as UTF-8.",
        LineTooLong: "Shorten the line to less than 1 MiB.",
        InvalidCustomId: "Give every line a custom_id of 1 to 256 characters.",
        DuplicateCustomId: "Give every line a custom_id of its own.",
        OtherModel: "Drop `model` from the line, or put the line into a job for that model.",
        OtherEndpoint: "Drop `url` from the line, or put the line into a job for that endpoint.",
        UnknownField: "Drop the field that the message names.",
        InvalidRequest: "Correct the value that the message names.",
        InputForbidden: "Correct the credentials in the Secret that the input names, or let them read the object.",
        SecretNotFound: "Create the Secret in <namespace>, with the keys that the message names.",
        OutputForbidden: "Correct the credentials in the Secret that the output names, or let them write there; results are kept until then.",
        EndpointNotServed: "Name a model of the right kind in a new job: embeddings need an embedding model, completions a text model.",
        ModelUnusable: "Use a smaller model, give the pods more memory (placement.local.resources), or another format of it.",
        NameTaken: "Delete the object that the message names, or submit the job under another name.",
        JobFailed: "The message has Kubernetes' words about the Job; `kubectl grid logs <name> -n <namespace>` has those of its pods.",
        ShardFailed: "See `kubectl grid logs <name> -n <namespace>` and errors.jsonl; submit the failed requests again.",
        WrongNamespace: "Make the GridNodePool in the operator's namespace.",
        // Chain.
        WrongChainId (may_pass): "Correct spec.chain.rpcEndpoints of the GridNetwork, or make a new GridNetwork for the other chain.",
        ContractWithoutCode (may_pass): "Check address and chain; `kubectl grid contract deploy` makes a contract. The address of a GridNetwork never changes: make a new one.",
        ContractCodeDiffers (may_pass): "Compare with `grid-operator verify-contract`; spec.chain.codeHash must be what it prints for the contract that you deployed.",
        ContractUnreadable (may_pass): "The address belongs to another contract; make a new GridNetwork with the address of a GridComputingRewards.",
        EpochSecondsMismatch: "Remove spec.rewards.epochSeconds from the GridNetwork: the contract decides.",
        ReporterSecretMissing (may_pass): "Create it in the operator's namespace: `kubectl -n xdc-grid create secret generic reporter --from-file=privateKey=reporter.key`.",
        ReporterKeyLocked (may_pass): "Put the keystore's password into the same Secret under the key `password`.",
        SignerInvalid (may_pass): "Correct spec.chain.remoteSigner: url, address, and the Secret that tlsSecretName names.",
        ReporterFundsLow: "Send XDC to the reporter's account, which the GridNetwork's status names, before it runs out.",
        ReporterKeyInvalid (may_pass): "Write the key as 64 hexadecimal digits without quotes, or an encrypted keystore (JSON), into the Secret.",
        ReporterWithoutRole: "Let the contract's admin grant REPORTER_ROLE to the reporter's account, which the GridNetwork's status names.",
        ReporterWithoutFunds (may_pass): "Send XDC to the reporter's account, which the GridNetwork's status names; it pays stakes and gas.",
        ReporterChanged: "Put the old reporter key back until its transactions are final, or delete the report to have it planned anew.",
        TransactionReverted: "The message has the contract's error. Mend its cause and change the node (any field of spec.rewards) to have it tried again.",
        GatewayServesAnotherNetwork: "A gateway belongs to one network for life: install another release of the chart, with a volume of its own, for this network.",
        // Nodes and their pods.
        ImagePullBackOff (may_pass): "Check image and tag (`operator.workerImage` or `image` of the chart), the registry, and the image pull secrets (`global.imagePullSecrets`).",
        ImagePullFailed (may_pass): "Check image and tag (`operator.workerImage` or `image` of the chart), the registry, and the image pull secrets of the GridNode.",
        PodRefused: "The message says why the pod may not be created: a quota, an unknown class, or a policy of the namespace.",
        MissingSecret: "Create the Secret that the message names, in the operator's namespace, with the keys that it lacks.",
        VolumeNotMounted (may_pass): "The message names the volume or the device: a StorageClass without volumes, a disk that another machine holds, a device that cannot be prepared.",
        DeviceLost (may_pass): "Look at the Kubernetes node: `kubectl describe node`; its driver or the device is at fault. The pod is made again.",
        PayoutFixed: "The contract goes on paying the old address until the owner of the node has asked it for another: `cast send CONTRACT requestPayout(address,address) NODE PAYOUT`, and two days later `applyPayout(address)`.",
        NoModels: "Name models in spec.models of the GridNode.",
        Unschedulable (may_pass): "The scheduler's message says what no Kubernetes node has: add a node, free the resource, or change spec.nodeSelector, spec.tolerations or spec.resources.",
        CrashLoopBackOff (may_pass): "Read why it ended: `kubectl grid logs` or `kubectl logs --previous` of the pod.",
        OOMKilled (may_pass): "Raise spec.resources.memory of the GridNode: it must hold the model, its cache and about 256 MiB.",
        CreateContainerConfigError: "Create the Secret or ConfigMap that the message names.",
        FailedMount (may_pass): "The message names the volume: a Secret that is missing, or a disk that another machine still holds.",
        FailedCreate: "The message says why the pod may not be created: a quota, an admission policy or a pod security level of the namespace.",
        NodeKeyInvalid: "Restore the Secret `worker-<name>-key` from your copy; without one delete the GridNode, and it gets a new identity.",
        RegistrationDiffers: "The owner registers again with the payout and stake that spec.rewards names, or the admin takes what is registered into spec.rewards.",
        NotRegistered (may_pass): "A Managed node is registered by the operator once its compute is proven. For an External node its owner runs `grid-worker register`.",
        ModelNotListed: "Add the model to spec.models of a GridNode: `kubectl edit gridnode <name>`.",
        // Models.
        ModelDigestMismatch: "The file at spec.source is not the one that spec.sha256 names: correct the source, or make a new GridModel with the file's own sha256.",
        ModelFormatMismatch: "Make a new GridModel with the format that the message names, and delete this one.",
        ModelForbidden: "Check secretRef of the GridModel's source, and that those credentials may read the file. It is tried again every two minutes.",
        ModelVolumeMissing: "Mount the claim into the gateway (`helm upgrade … --set 'gateway.modelClaims={CLAIM}'`), or correct source.pvc.",
        ModelTooLarge: "Raise the gateway's limit (`GRID_MAX_BLOB_BYTES` in `gateway.extraEnv`) and its volume, or use a smaller model.",
        ModelFailed: "The message has the gateway's words.",
        ModelLoadFailed: "The worker cannot load the file: it may need more memory, or another format or architecture than this version serves.",
        MemoryExceeded: "Raise spec.resources.memory of the GridNode, or serve fewer or smaller models on it.",
        StorageFull: "Give the node a larger spec.storage, or let it serve fewer models.",
        ContextExceeded: "Shorten the prompt or lower maxTokens: both together must fit the model's context.",
        ContextTooShort: "Shorten the prompt or lower maxTokens, or serve the model with a longer context on some node.",
        PromptRefused: "The model's chat template does not take these messages; the message says why.",
        FormRefused: "The JSON schema of response_format cannot be kept to; the message says why. docs/user-guide/serve.md lists what a schema may have.",
        ReportImpossible: "The message says why; ask the authors when it is the number of nodes.",
        LeavesMissing: "Restore the ConfigMap from a backup, or rebuild the leaves from the calldata of the report's transaction.",
        NoNodes: "Create a GridNode (docs/examples/node-managed-cpu.yaml).",
    }
    Refused {
        SecretForbidden: "The message has the command that lets the operator read Secrets in <namespace>; an admin of it runs it.",
        AddressRefused: "Jobs may not reach that address; use another one, or ask the admin (`--job-denied-networks` of the operator).",
        LocalJobsDisabled: "An admin allows them with the chart's value `localJobs.enabled`; or use placement.target Grid in a new job.",
        StartDeadlineExceeded: "Nothing was started in time. See what nodes there are (`kubectl grid nodes`), and submit a new job with a longer spec.startDeadlineSeconds.",
        OutsideWindow (may_pass): "Wait until a window of spec.availability opens; status.availability says when.",
        PeerRefused: "The message has the gateway's words: the worker must have this network's chain id, contract and salt, the key of spec.peerID, and a version that fits.",
        NotApproved (may_pass): "An admin approves it: `kubectl patch gridnode <name> --type=merge -p '{\"spec\":{\"approved\":true}}'`.",
        Cordoned (may_pass): "When it is to work again: `kubectl grid uncordon <name>`.",
        Suspended (may_pass): "When it is to go on: `kubectl patch inferencejob <name> -n <namespace> --type=merge -p '{\"spec\":{\"suspend\":false}}'`.",
        Cancelled (may_pass): "Nothing more happens to it; what was answered is published. Submit a new job to try again.",
        SpendLimitReached: "What was answered is published and paid. Submit the rest as a new job with an escrow of its own.",
        EscrowExpiring: "What was answered is published and paid. Submit the rest as a new job whose escrow has a later deadline.",
        DeadlineExceeded: "What was answered is published. Submit the rest as a new job, with a longer deadline or more parallelism.",
        TooManyFailedRequests: "Look at `kubectl grid results <name> -n <namespace> --errors`, mend the cause, and submit a new job or raise spec.maxFailedRequests.",
        EvidenceAgainstNode (may_pass): "Audits found answers that its model does not give. Compare its model files and software with a good node; a new identity starts with no record.",
        Quarantined (may_pass): "See `kubectl grid why` of the node.",
        Forbidden: "The message has the command that lets the operator do it; an admin of <namespace> runs it.",
        NetworkPaused (may_pass): "When the grid is to work again: `kubectl patch gridnetwork <name> --type=merge -p '{\"spec\":{\"paused\":false}}'`.",
        GatewayRefused (may_pass): "The message has the gateway's words.",
        PaymentRequired: "Open an escrow for a new job and name it in spec.payment (docs/user-guide/jobs.md); the message has the model.",
        ModelWithoutPrice: "Submit a new job without spec.payment.",
        EscrowContractMissing: "An admin writes the address of the grid's GridJobEscrow into spec.chain.escrow of the GridNetwork; `grid-operator deploy` printed it.",
        EscrowNotFound (may_pass): "Nothing to do if it was opened a moment ago: it counts once its block is final. Else open it with the salt that the message names, or correct spec.payment.escrowID in a new job.",
        EscrowOfAnotherJob: "Open an escrow with the salt that the message names, and name it in a new job of this namespace and name.",
        EscrowClosed: "Open another escrow for a job of another name: a payer uses each salt once.",
        EscrowTooSmall: "Add to it: `cast send ESCROW_CONTRACT 'topUpJob(bytes32)' ESCROW_ID --value …`; the job goes on by itself.",
        SpendTooLarge: "Split the job into several, each with an escrow of its own.",
        EscrowTaken: "Submit the job under a new name, with an escrow of its own; the payer takes back what is left of this one after its deadline.",
        SettlerWithoutRole: "The message has the command with which the contract's admin grants the role.",
        SubmissionConflict: "Delete the job and submit it again under a new name.",
        DryRun (may_pass): "To report for real, set spec.rewards.dryRun of the GridNetwork to false.",
        RootMismatch: "Somebody else reported this epoch with the reporter's role. Stop the operator, compare both reports, revoke the key.",
        VotesDiffer: "Reporters disagree about an epoch. Let each work it out from the receipts (`grid-operator vote-epoch EPOCH --dry-run …`), and find out whose key voted for what nobody can work out.",
        LedgerMismatch: "Compare the last ContributionReport with the contract; restore missing reports from a backup before anything else.",
        EpochDropped: "Find out why the guardian dropped it; delete the report to have the epoch planned anew.",
        DrainDeadlineExceeded: "Work that was cut off is given to other nodes. Look at the contract: the node may still be registered there.",
        CleanupDeadlineExceeded: "The gateway forgets the text when its retention ends.",
        AuditFailed: "The answers that failed earn nothing; results were kept as they came. `kubectl grid why` of the node says what becomes of it.",
        NodeQuarantined (may_pass): "See `kubectl grid why` of the node.",
        SlashPending: "Nothing to do. An admin who doubts it takes spec.chain.slasherSecretRef out of the GridNetwork before the proposal is sent.",
        SlashProposed: "The owner appeals with the bond of the contract (`cast send SLASHING 'appealSlash(uint256)' CASE --value BOND`), or gives way; the message has the case and the time.",
        SlashAppealed: "The arbiter looks at the receipts whose audits failed and rules: `executeSlash` or `cancelSlash` of the case in the message.",
        SlashExecuted: "Nothing can be taken back. A new identity starts with no record.",
        Evicted (may_pass): "Kubernetes took the pod away because its machine ran out of something; the message says of what. It comes back by itself.",
        Preempted (may_pass): "A pod with a higher priority took its place. Give the node a priorityClassName, or wait until there is room.",
        PreemptionByScheduler (may_pass): "A pod with a higher priority took its place. Give the node a priorityClassName, or wait until there is room.",
        ComputeChallengeFailed (may_pass): "The node gave a wrong or late answer to a compute challenge. It is challenged again; if it fails again, its hardware or software is at fault.",
    }
    Unavailable {
        NotObserved: "The operator has not looked at it yet. Is it running? `kubectl -n xdc-grid get pods -l app.kubernetes.io/component=operator`.",
        InputUnreachable: "Check the URL from inside the cluster; NetworkPolicies of the chart (`networkPolicy`) may forbid it. It is tried again.",
        OutputUnreachable: "Check the bucket's endpoint from inside the cluster. Results are kept and written when it answers; nothing is computed again.",
        StoreFull: "Make room in the gateway's volume (delete old jobs with output store) or enlarge it; results are kept until then.",
        OperatorNotRunning: "Start the operator: `kubectl -n xdc-grid describe deployment -l app.kubernetes.io/component=operator`.",
        GatewayUnavailable: "Look at the gateway: `kubectl -n xdc-grid get pods -l app.kubernetes.io/component=gateway`. Nothing is lost while it is away.",
        GatewayUnreachable: "The worker cannot reach the gateway: check its address, the network and NetworkPolicies. It keeps trying.",
        GatewayRestarted: "It goes on by itself.",
        NetworkNotReady: "See `kubectl grid why gnet/<name>`.",
        RpcUnreachable: "Check spec.chain.rpcEndpoints and the way to them (`networkPolicy.chain` of the chart); name a second endpoint. Nothing is decided while the chain is away.",
        EndpointsDisagree: "One of spec.chain.rpcEndpoints lags or lies: wait a minute; if it stays, compare them (`cast block finalized`) and take that one out. Three endpoints let one of them fail.",
        SignerUnavailable: "See that the remote signer runs and can be reached from the operator; nothing is signed until it answers.",
        RpcBehind: "The endpoint is behind the chain: wait, or name a second endpoint in spec.chain.rpcEndpoints. Nothing is decided until one catches up.",
        ModelNotHeld: "Start a node that held the model and lists it in spec.models, or name another source. It is tried again.",
        ModelUnreachable: "Check spec.source of the GridModel from inside the cluster; `networkPolicy.models` of the chart may forbid it. It is tried again.",
        NotConnected: "Is the worker running, and may it reach the gateway's address? The worker's log says why a connection fails.",
        NeverConnected: "Is the worker running, with this network's gateway, chain id and contract? The worker's log says why a connection fails.",
        NotAMember: "The peer id that dialled is not that of a GridNode of this network: compare `grid-worker keygen` with spec.peerID.",
        WrongNetwork: "Start the worker with this network's chain id, contract and salt.",
        UnsupportedVersion: "Bring worker and gateway to the same version.",
        AuthTimeout: "The machine or its network is too slow just now; it dials again.",
        BadSignature: "The worker's key is not the one of its peer id; check --key-file.",
        ConnectionLost: "It dials again by itself; lost work is given to others.",
        HeartbeatLost: "Work is given to others; when it happens often, look at the node's load and network.",
        LeaseExpired: "The request is given to another node.",
        EngineFailed: "The request is given to another node; the worker's log has the error.",
        WorkerFailed: "The request is given to another node; the worker's log has the error.",
        WorkerGone: "The request is given to another node.",
        NodeLost: "The Kubernetes node is gone; the pod starts elsewhere once it is removed from the cluster.",
        Terminating: "It is being deleted; a finalizer waits for what the message says.",
        BenchmarkFailed: "The worker's log says why it could not measure itself; it tries again.",
    }
    NoMatchingNode {
        NoWorkerForModel: "A node must list the model in spec.models and be Ready; the lines below say what each one lacks.",
        NoMatchingGridNode: "Loosen spec.placement in a new job, or add a node that fits it.",
        NoMatchingNode: "Loosen spec.placement (regions, nodeSelector, requireTrust) in a new job, or add or uncordon a node that fits it.",
        NoNodeHasModel: "Add it to a node: `kubectl patch gridnode NODE --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/models/-\",\"value\":\"<name>\"}]'`.",
        ModelNotServed: "Add the model to spec.models of a GridNode.",
        NoVerifier: "Give a node that you run the role Verify (spec.roles).",
    }
    WaitingForCapacity {
        WaitingForCapacity: "Wait, add GridNodes, or raise spec.parallelism if the job limits itself.",
        NodesBusy: "Wait, or add GridNodes.",
        ModelsLoading: "Wait; models are fetched, loaded and measured.",
        NodesNotReady: "See `kubectl grid nodes` and `kubectl grid why` of each.",
        ScalingUp: "Wait; new nodes are made, measured and challenged first.",
        ScalingDown: "Wait; each node finishes its work first.",
        ShardMissing: "Wait; the shard is computed again.",
        UpdateWaitsForIdle: "Wait; the worker is replaced as soon as it has nothing to do. `spec.updatePolicy: Immediate` does not wait.",
        UpdateWaitsForTurn: "Wait; only some workers are replaced at once.",
        KernelProfileUnshared: "Give a node of the same hardware and software the role Verify, so that this node's answers can be checked.",
        NoFreeSlot: "Wait, or add GridNodes.",
        RateLimited: "Wait; it is tried again.",
        WorkerStarting: "Wait; a model takes a while to load. If it lasts, read the worker's log.",
        ContainerCreating: "Wait; images and volumes take a while.",
        PodInitializing: "Wait.",
        SchedulingGated: "Whoever put the scheduling gate on the pod removes it.",
        Error: "Read why it ended: `kubectl logs --previous` of the pod.",
        ModelFetching: "Wait; `kubectl get gridmodels` shows the size.",
        ModelNotReady: "See `kubectl grid why gm/<name>`.",
        Fetching: "Wait; the node is fetching the model.",
        Loading: "Wait; the node is loading the model.",
        Measuring: "Wait; the node is measuring itself.",
        TooFewCopies: "Add nodes with the role Storage that list the model, or lower spec.replicas.",
        NotChallenged: "Wait; a challenge comes within minutes of the first connection.",
        ComputeChallengePending: "Wait; a challenge comes within minutes of the first connection.",
        ProbationPending: "Wait; a new External node answers a few test requests first.",
        WaitingForCapability: "Wait; registration follows the first challenge that is passed.",
        RegistrationPending: "Wait; a transaction takes from seconds to minutes to be final.",
        Exiting: "Wait; the stake can be taken out after the unbonding time. To take part again, register again after that.",
        DrainInProgress: "Wait; it ends at spec.drain.deadlineSeconds at the latest.",
    }
    WaitingForQuota {
        WaitingForQuota: "Wait for your queue's turn, or ask its admin for more quota.",
        QueuedByKueue: "Kueue holds the job back: `kubectl -n <namespace> get workloads,localqueues` says for which quota it waits.",
        QuotaNotReserved: "Wait until others in that queue are done, or ask the admin of the ClusterQueue for more quota: `kubectl describe clusterqueue`.",
        AdmissionChecksPending: "Wait; `kubectl -n <namespace> describe workload <name>` lists the checks and their states.",
        WorkloadDeactivated: "Activate it again: `kubectl -n <namespace> patch workload <name> --type merge -p '{\"spec\":{\"active\":true}}'`; its conditions say who stopped it.",
        FairShare: "Other namespaces are due first; the job gets its turn.",
    }
    Running {
        RequestsRunning: "Nothing to do: `kubectl grid top` shows how it goes on.",
        Progressing: "Nothing to do: the operator is at work on it.",
        AuditsPending: "Nothing to do: audits are decided within minutes.",
    }
    Publishing {
        AllRequestsDone: "Nothing to do: results are being published. If it lasts, the line below says why.",
        LastContributionOutstanding: "Nothing to do: the work of its last epoch is reported and paid all the same.",
        SettlementPending: "Nothing to do: the epoch has to end; then paid jobs are settled, and unpaid work is reported and passes its window.",
        ReportPending: "Nothing to do: the report is on its way to the chain.",
        SlashExecutionPending: "Nothing to do: the transaction is on its way to the chain.",
        WaitingForVotes: "Another reporter has to vote: `grid-operator vote-epoch EPOCH …` with its key, or `--follow` all the time (docs/rewards.md). An admin of the contract who runs one reporter only sets its quorum to 1.",
        ReportsBehind: "See `kubectl get contributionreports` and `kubectl grid why gnet/<name>`: the chain may be away, or the reporter without funds.",
        EpochChallenged: "Look at the challenge (event EpochChallenged of the contract) and tell the arbiter; after the time that the message names anybody can drop the report with `expireChallenge`.",
        WindowOpen: "Nothing to do: the contract's window has to pass.",
    }
    Fine {
        Ready: "Nothing to do.",
        Resumed: "Nothing to do.",
        JobCreated: "Nothing to do.",
        ModelsLoaded: "Nothing to do.",
        PoolComplete: "Nothing to do.",
        ChainReachable: "Nothing to do.",
        ReporterReady: "Nothing to do.",
        ReporterFunded: "Nothing to do.",
        GatewayConfigured: "Nothing to do.",
        WorkerReady: "Nothing to do.",
        RunByOwner: "Nothing to do: its owner looks after the worker.",
        Connected: "Nothing to do.",
        Registered: "Nothing to do.",
        NoRewardsConfigured: "To have the node paid, set spec.rewards.",
        ChallengePassed: "Nothing to do.",
        NothingToStore: "Nothing to do.",
        ReportsCurrent: "Nothing to do.",
        DigestVerified: "Nothing to do.",
        EnoughCopies: "Nothing to do.",
        ModelServed: "Nothing to do.",
        InputRead: "Nothing to do.",
        Submitted: "Nothing to do.",
        AuditsPassed: "Nothing to do.",
        NothingAudited: "Nothing to do; spec.verification.samplePercent raises the share that is checked.",
        Published: "Nothing to do: `kubectl grid results <name> -n <namespace>`.",
        EpochActive: "Nothing to do: nodes can claim.",
        EscrowSettled: "Nothing to do: what is left is the payer's; `cast send ESCROW_CONTRACT 'withdrawCredit(address)' PAYER` pays it out.",
        SettlementsCurrent: "Nothing to do.",
        SlashCasesCurrent: "Nothing to do.",
        PayoutApplied: "Nothing to do.",
        PayoutRequested: "Nothing to do. If you did not want it, put the old address back into spec.rewards.payoutAddress: that takes the request back.",
        PayoutCooling: "Nothing to do. If you did not want it, put the old address back into spec.rewards.payoutAddress before the time in the message: that takes the request back.",
        Completed: "Nothing to do: `kubectl grid results <name> -n <namespace>`.",
        ReportFinal: "Nothing to do.",
        RewardsActive: "Nothing to do: nodes can claim.",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::reasons::Reason;

    const HEAD: &str = "| Code | Kind of cause | What to do |\n|---|---|---|\n";

    fn table() -> String {
        let row = |remedy: &Remedy| {
            // A bar would end the cell.
            format!("| `{}` | {} | {} |\n", remedy.code, remedy.tier.words(), remedy.text.replace('|', "\\|"))
        };
        REMEDIES.iter().map(row).collect()
    }

    #[test]
    fn every_reason_says_what_to_do() {
        let missing: Vec<_> =
            Reason::ALL.iter().map(|(reason, _)| reason.as_str()).filter(|code| of(code).is_none()).collect();
        assert!(missing.is_empty(), "no line in src/api/remedies.rs for {missing:?}");
    }

    #[test]
    fn no_code_has_two_lines() {
        let codes: BTreeSet<_> = REMEDIES.iter().map(|remedy| remedy.code).collect();
        assert_eq!(codes.len(), REMEDIES.len());
    }

    #[test]
    fn the_documentation_says_the_same() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(HEAD).expect("docs/reasons.md has the table of remedies");
        let (found, after) = rest.split_once("\n\n").map_or((rest.trim_end(), ""), |(found, after)| (found, after));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let after = if after.is_empty() { String::new() } else { format!("\n{after}") };
            std::fs::write(path, format!("{before}{HEAD}{}{after}", table())).unwrap();
            return;
        }
        assert_eq!(format!("{found}\n"), table(), "run this test once with UPDATE_DOCS=1");
    }

    #[test]
    fn what_needs_a_person_is_told_from_what_may_pass() {
        for remedy in REMEDIES.iter().filter(|remedy| remedy.may_pass) {
            assert!(remedy.tier <= Tier::Refused, "{} may pass anyway", remedy.code);
        }
        assert!(needs_a_person("MissingSecret") && needs_a_person("PeerRefused") && needs_a_person("ModelNotFound"));
        assert!(!needs_a_person("NotApproved"), "that is somebody's decision, and no failure");
        assert!(!needs_a_person("WorkerStarting") && !needs_a_person("SomethingNew"));
    }

    #[test]
    fn commands_are_closed_by_a_back_quote() {
        for remedy in REMEDIES {
            assert_eq!(remedy.text.matches('`').count() % 2, 0, "{}", remedy.code);
            assert!(remedy.text.ends_with('.'), "{}", remedy.code);
        }
    }
}

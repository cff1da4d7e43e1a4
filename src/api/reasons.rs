//! Reason codes of conditions and Events. They are an interface: people and alerts match on them, so a code never changes
//! its meaning. `docs/reasons.md` has the same lines; a test keeps both equal.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Why a condition is as it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Reason {
            /// Every code with its line for people.
            pub const ALL: &[(Reason, &str)] = &[$((Reason::$name, concat!($($doc),+)),)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)*
                }
            }

            /// The code with this name; `None` for one that came from elsewhere, such as the gateway.
            pub fn of(name: &str) -> Option<Reason> {
                Reason::ALL.iter().map(|(reason, _)| *reason).find(|reason| reason.as_str() == name)
            }
        }
    };
}

reasons! {
    // Everywhere.
    /// Everything that applies holds.
    Ready,
    /// The gateway's internal API cannot be reached; nothing is decided until it answers.
    GatewayUnavailable,
    /// The gateway refused what the operator asked; the message has its words.
    GatewayRefused,
    /// The gateway keeps another network than the one it was asked to serve; it needs a data volume of its own.
    GatewayServesAnotherNetwork,
    /// The GridNetwork that is named does not exist.
    NetworkNotFound,
    /// The GridNetwork that is named is not ready yet.
    NetworkNotReady,
    /// The GridNetwork is paused.
    NetworkPaused,
    /// The GridModel that is named does not exist.
    ModelNotFound,
    /// The model serves another endpoint than spec.workload.endpoint asks for; a GridModel's format says which.
    EndpointNotServed,
    /// The object does not fit its schema and is left alone until it is corrected.
    InvalidObject,

    // Chain.
    /// The chain answers, on the right chain id, and the contract is there.
    ChainReachable,
    /// No RPC endpoint answers; nothing is decided until one does.
    RpcUnreachable,
    /// The newest block that an RPC endpoint knows is minutes old; nothing is decided until it catches up.
    RpcBehind,
    /// An endpoint answers with another chain id than spec.chain.chainID.
    WrongChainId,
    /// There is no code at the contract's address: wrong address, or wrong chain.
    ContractWithoutCode,
    /// RPC endpoints give different answers to a question that decides about money; nothing is decided until two of them agree.
    EndpointsDisagree,
    /// The code at the contract's address is not the one that spec.chain.codeHash names.
    ContractCodeDiffers,
    /// The contract does not answer as GridComputingRewards does.
    ContractUnreadable,
    /// spec.rewards.epochSeconds differs from the contract's.
    EpochSecondsMismatch,
    /// The Secret with the reporter key, or its key, does not exist.
    ReporterSecretMissing,
    /// The reporter key is neither 64 hexadecimal digits nor an encrypted keystore.
    ReporterKeyInvalid,
    /// The encrypted keystore with the reporter key cannot be opened: its password is missing or another one.
    ReporterKeyLocked,
    /// spec.chain.remoteSigner names no signer that has the reporter's key; the message says what is wrong.
    SignerInvalid,
    /// The remote signer does not answer; nothing is signed until it does.
    SignerUnavailable,
    /// The reporter's account pays for fewer than 100 more reports.
    ReporterFundsLow,
    /// The reporter's account pays for at least 100 more reports.
    ReporterFunded,
    /// The reporter's key is there and may report.
    ReporterReady,
    /// The reporter's account lacks REPORTER_ROLE in the contract.
    ReporterWithoutRole,
    /// The reporter's account cannot pay for stake and gas.
    ReporterWithoutFunds,
    /// A transaction was reverted; the message has the contract's error.
    TransactionReverted,

    // GridNetwork.
    /// The gateway has taken the configuration of this network.
    GatewayConfigured,

    // GridNode.
    /// The worker's pod is ready.
    WorkerReady,
    /// The worker's pod is starting.
    WorkerStarting,
    /// The worker's image cannot be pulled; the message has the kubelet's words.
    ImagePullFailed,
    /// No Kubernetes node can take the worker's pod, for example because no accelerator is free; the message has the scheduler's words.
    Unschedulable,
    /// The worker's pod cannot be made: a quota, an unknown class, a policy; the message has the API server's words.
    PodRefused,
    /// A Secret that a worker's pod or a model's source needs does not exist in the operator's namespace, or lacks a key; create it.
    MissingSecret,
    /// A volume of the worker's pod cannot be mounted, or its devices cannot be prepared; the message has the kubelet's words.
    VolumeNotMounted,
    /// A worker needed more memory than its resources allow (spec.resources of a GridNode, placement.local.resources of a job) and was killed; give it more.
    OOMKilled,
    /// A worker's pod was evicted from its Kubernetes node: pressure there, a taint, or a drain; it is made again, and a shard is tried again.
    Evicted,
    /// A worker's pod gave way to one of a higher priority; it is made again when there is room, and a shard is tried again.
    Preempted,
    /// An accelerator of the worker is gone or unhealthy; look at the Kubernetes node.
    DeviceLost,
    /// The worker is to be replaced and finishes what it runs first.
    UpdateWaitsForIdle,
    /// The worker is to be replaced once other workers that are being replaced are ready again.
    UpdateWaitsForTurn,
    /// The worker's container ends again and again; its log says why.
    CrashLoopBackOff,
    /// The worker runs on its owner's machine.
    RunByOwner,
    /// The node is connected and authenticated.
    Connected,
    /// The node is not connected to the gateway.
    NotConnected,
    /// The gateway refuses the worker's connection: another network, version or key; the message has its words.
    PeerRefused,
    /// Models of the node are being fetched, loaded or measured.
    ModelsLoading,
    /// The models that the node is to serve are ready.
    ModelsLoaded,
    /// The node has no model to serve.
    NoModels,
    /// spec.approved does not let this node take part.
    NotApproved,
    /// spec.unschedulable keeps new work away.
    Cordoned,
    /// No window of spec.availability is open; the node is given nothing, and that counts against it in no way.
    OutsideWindow,
    /// The node is registered with its stake.
    Registered,
    /// The node is not registered in the contract.
    NotRegistered,
    /// The registration differs from what spec.rewards asks of the owner.
    RegistrationDiffers,
    /// The registration is on its way to the chain.
    RegistrationPending,
    /// The node has no spec.rewards and works unpaid.
    NoRewardsConfigured,
    /// Registration waits until the node's compute is proven.
    WaitingForCapability,
    /// spec.rewards.payoutAddress was changed after the registration, and another account than the reporter's owns the node. The contract goes on paying the old one until that owner has asked it for another, which applies two days later.
    PayoutFixed,
    /// spec.rewards.payoutAddress was changed: the contract is being asked to pay there, which applies two days after it has the request.
    PayoutRequested,
    /// The contract was asked to pay another address and lets two days pass; the message says until when the old one is paid.
    PayoutCooling,
    /// Rewards of the node are paid to the new address from now on.
    PayoutApplied,
    /// Failed audits prove that the node cheats; a slash case against its stake is being opened.
    SlashPending,
    /// A slash case froze part of the node's stake; its owner can appeal until the time in the message.
    SlashProposed,
    /// The owner appealed against the slash case; an arbiter rules.
    SlashAppealed,
    /// A slash case took part of the node's stake.
    SlashExecuted,
    /// The node is leaving the contract; the stake is free after the unbonding time.
    Exiting,
    /// The node's key Secret holds something that is no key.
    NodeKeyInvalid,
    /// A challenge proved the node's compute or storage.
    ChallengePassed,
    /// No challenge has been passed yet.
    NotChallenged,
    /// No node with the role Verify computes as this one does, so that no audit can decide about its answers: it stays on probation and unpaid.
    KernelProfileUnshared,
    /// The node has nothing to store.
    NothingToStore,
    /// The last epoch that is over is reported.
    ReportsCurrent,
    /// Epochs that are over wait for their report.
    ReportsBehind,
    /// Evidence against the node holds back its work and its pay.
    EvidenceAgainstNode,
    /// The node is deleted or cordoned and finishes its work.
    DrainInProgress,
    /// The node was removed before it was drained, because its deadline passed.
    DrainDeadlineExceeded,
    /// The node was removed before its last epoch was over. Its work of that epoch is reported and paid all the same.
    LastContributionOutstanding,

    // GridNodePool.
    /// As many nodes are Ready as there are to be.
    PoolComplete,
    /// Nodes are being added.
    ScalingUp,
    /// Nodes are being removed; each finishes its work first.
    ScalingDown,
    /// Nodes of the pool are not Ready; look at them.
    NodesNotReady,
    /// A GridNodePool works only in the operator's namespace, where its worker pods are.
    WrongNamespace,

    // GridModel.
    /// The gateway has the file and its sha256 is right.
    DigestVerified,
    /// The gateway is fetching the file.
    ModelFetching,
    /// The file has another sha256 than spec.sha256; nothing of it is kept.
    ModelDigestMismatch,
    /// The source of the model cannot be fetched.
    ModelUnreachable,
    /// The source of the model refuses to give it: credentials are missing, wrong, or not allowed to read it.
    ModelForbidden,
    /// The volume that has the model's file is not mounted by the gateway, or has no such file; the message says which.
    ModelVolumeMissing,
    /// The file is what spec.sha256 says, and not of the format that spec.format says; the message has both.
    ModelFormatMismatch,
    /// No connected node holds the model's file; the message has what those that were asked said.
    ModelNotHeld,
    /// The model's file is larger than the gateway takes.
    ModelTooLarge,
    /// The gateway could not take the model; the message has its words.
    ModelFailed,
    /// As many proven copies as asked for.
    EnoughCopies,
    /// Fewer proven copies than asked for.
    TooFewCopies,
    /// No worker can serve the model now.
    NoWorkerForModel,
    /// At least one worker can serve the model.
    ModelServed,

    // InferenceJob.
    /// References resolve and the input can be read.
    InputRead,
    /// The input cannot be used; the message says where.
    InvalidInput,
    /// The ConfigMap, key or object with the input does not exist.
    InputNotFound,
    /// The URL or bucket of the input does not answer.
    InputUnreachable,
    /// The URL or bucket gives other bytes than spec.workload.input.sha256.
    InputDigestMismatch,
    /// The input has more than 50000 lines or 200 MB.
    InputTooLarge,
    /// The bucket does not give the input: wrong credentials, or no right to read it.
    InputForbidden,
    /// The Secret with the credentials of a bucket does not exist in the job's namespace, or lacks a key.
    SecretNotFound,
    /// The operator may not read Secrets in the job's namespace; the message has the command with which an admin grants it.
    SecretForbidden,
    /// An input or output is at an address that jobs may not reach (--job-denied-networks of the operator).
    AddressRefused,
    /// The operator may not read or write in the job's namespace; the message has the command that grants it.
    Forbidden,
    /// The grid has the job and its input.
    Submitted,
    /// The grid already has another job under this uid.
    SubmissionConflict,
    /// Nodes serve the model, but none of them may take the job: another region, other labels, less trust than it asks for, cordoned; the message has numbers.
    NoMatchingNode,
    /// Nodes that match are busy; the message says how many, and about how long.
    WaitingForCapacity,
    /// Requests are being answered.
    RequestsRunning,
    /// spec.suspend is set.
    Suspended,
    /// The job goes on after a suspension.
    Resumed,
    /// Every request is answered or has failed.
    AllRequestsDone,
    /// Audits that are owed are not yet decided.
    AuditsPending,
    /// Every audit that was owed agreed.
    AuditsPassed,
    /// An audit did not agree with an answer; that answer earned nothing.
    AuditFailed,
    /// No answer was selected for an audit.
    NothingAudited,
    /// Results and manifest are at their place.
    Published,
    /// Results do not fit into a ConfigMap of about 1 MB; split the job or lower maxTokens.
    OutputTooLarge,
    /// The output ConfigMap, or the manifest in the bucket, belongs to another job.
    OutputConflict,
    /// The place of the output does not answer; results are kept and written when it does, nothing is computed again.
    OutputUnreachable,
    /// The place of the output takes nothing: wrong credentials, no right to write, or no such bucket. Results are kept.
    OutputForbidden,
    /// The gateway's store has no room for the results; they are kept in the ledger and written when there is.
    StoreFull,
    /// The epoch with this work is not yet active on chain; or, of a paid job, its escrow is not settled yet.
    SettlementPending,
    /// The epoch with this work is active on chain.
    EpochActive,
    /// The model has a price, and the job has no spec.payment.
    PaymentRequired,
    /// The job has spec.payment, and its model has no price.
    ModelWithoutPrice,
    /// spec.chain.escrow of the GridNetwork names no GridJobEscrow of the network's contract.
    EscrowContractMissing,
    /// No final block has the escrow that spec.payment.escrowID names; it may be on its way.
    EscrowNotFound,
    /// The escrow was opened with another salt than that of this job's namespace and name.
    EscrowOfAnotherJob,
    /// The escrow is settled, or its payer has taken it back.
    EscrowClosed,
    /// The escrow holds less than spec.payment.maxSpendWei.
    EscrowTooSmall,
    /// spec.payment.maxSpendWei is more than the contract pays out for one epoch.
    SpendTooLarge,
    /// The escrow's deadline is so near that nothing more could be settled with it; what is finished is kept and settled.
    EscrowExpiring,
    /// The escrow pays another job already, perhaps a deleted one of the same name.
    EscrowTaken,
    /// The job has spent all that spec.payment.maxSpendWei allows; what is finished is kept and published.
    SpendLimitReached,
    /// What the job spent was taken from its escrow, in a final block; the rest is its payer's credit.
    EscrowSettled,
    /// Every paid job of an epoch that is over is settled with its escrow.
    SettlementsCurrent,
    /// Every slash case that is due, and that no GridNode pursues, is executed.
    SlashCasesCurrent,
    /// A slash case that nobody appealed against in time is being executed; its GridNode is gone, or another slasher opened it.
    SlashExecutionPending,
    /// The account that settles paid jobs lacks SETTLER_ROLE in the contract.
    SettlerWithoutRole,
    /// Done, results published.
    Completed,
    /// spec.cancel is set.
    Cancelled,
    /// spec.activeDeadlineSeconds passed.
    DeadlineExceeded,
    /// No request was started within spec.startDeadlineSeconds.
    StartDeadlineExceeded,
    /// More requests failed than spec.maxFailedRequests allows.
    TooManyFailedRequests,
    /// The job was removed before the gateway had forgotten its text, because the gateway was away too long.
    CleanupDeadlineExceeded,

    // InferenceJob with placement.target Local.
    /// This operator runs no Local jobs; an admin allows them with the chart's value localJobs.enabled.
    LocalJobsDisabled,
    /// The Job with the pods of a Local job exists.
    JobCreated,
    /// A queue holds the Job back until there is quota for it.
    WaitingForQuota,
    /// A shard failed at every try; its requests without an answer are failures.
    ShardFailed,
    /// A shard's ConfigMap was deleted; the shard is computed again.
    ShardMissing,
    /// No worker can load the model's file: it is too large, or no model that the engine knows.
    ModelUnusable,
    /// The Job of a Local job failed as a whole; the message has Kubernetes' words.
    JobFailed,
    /// An object with the name that the job's own would have belongs to somebody else.
    NameTaken,

    // Lines of a job's input, in errors.jsonl.
    /// The line is not JSON.
    InvalidJson,
    /// The line is not UTF-8.
    InvalidText,
    /// The line has more than 1 MiB.
    LineTooLong,
    /// custom_id is missing or too long.
    InvalidCustomId,
    /// An earlier line has the same custom_id; that one runs.
    DuplicateCustomId,
    /// The line asks for another model than the job.
    OtherModel,
    /// The line is for another endpoint than the job.
    OtherEndpoint,
    /// The line has a field that is not served.
    UnknownField,
    /// The line has a value that is not served.
    InvalidRequest,

    // ContributionReport.
    /// The report is on its way to the chain.
    ReportPending,
    /// The contract wants several reporters to agree on a report, and fewer than that have voted for this one; the message says how many.
    WaitingForVotes,
    /// Another reporter voted for another report of the same epoch, and too few agree: nothing is reported until they do.
    VotesDiffer,
    /// The report is in a final block.
    ReportFinal,
    /// A report is challenged: nothing of it is paid until the contract's arbiter has ruled, or its time is over.
    EpochChallenged,
    /// The contract's window is still open.
    WindowOpen,
    /// The root is live and nodes can claim.
    RewardsActive,
    /// spec.rewards.dryRun keeps the report from the chain; also a settlement, a slash case or the execution of one.
    DryRun,
    /// The contract has another root for this epoch; somebody else reported it. Nothing more is reported until a person looked.
    RootMismatch,
    /// The contract's allocated total is not the one of the last report that is known here; nothing is reported on top of it.
    LedgerMismatch,
    /// The guardian dropped the epoch in its window; delete the report to have it planned anew.
    EpochDropped,
    /// The report was signed with another reporter key than the network has now.
    ReporterChanged,
    /// The report cannot be made, for example because it has more nodes than one transaction can carry.
    ReportImpossible,
    /// The leaves of the last report are gone, and the chain does not give them either.
    LeavesMissing,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything between the table's head and the first empty line after it.
    const HEAD: &str = "| Reason | Meaning |\n|---|---|\n";

    fn table() -> String {
        Reason::ALL.iter().map(|(reason, text)| format!("| `{}` | {} |\n", reason.as_str(), text.trim())).collect()
    }

    #[test]
    fn the_documentation_has_a_line_for_every_reason() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(HEAD).expect("docs/reasons.md has the table");
        let (found, after) = rest.split_once("\n\n").expect("text follows the table");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{HEAD}{}\n{after}", table())).unwrap();
            return;
        }
        assert_eq!(format!("{found}\n"), table(), "run this test once with UPDATE_DOCS=1");
    }

    #[test]
    fn no_reason_appears_twice() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|(reason, _)| reason.as_str()).collect();
        names.sort_unstable();
        let len = names.len();
        names.dedup();
        assert_eq!(names.len(), len);
    }
}

//! What the gateway keeps: the ledger (SQLite through sqlx), the blob store (files named by their sha256) and the files of
//! jobs that leave their results here. This room owns
//! the disk and the database, gives every write one transaction and every fact one unique key; it decides nothing about
//! workers, audits or money, and is told the time.

mod answers;
mod audits;
pub mod blobs;
mod challenges;
mod changes;
mod columns;
mod epochs;
mod error;
mod evidence;
mod fsck;
mod input;
mod jobs;
mod leases;
mod ledger;
mod members;
mod models;
mod payments;
mod queue;
mod receipts;
mod requests;
mod results;
mod whole;

pub use answers::ResultRow;
pub use audits::{AuditDecision, AuditRecord, AuditState, CanaryRecord, OwedAudit, UNDECIDABLE};
pub use blobs::Blobs;
pub use challenges::{ChallengeKind, ChallengeOutcome, ChallengeRecord, ChallengeTally};
pub use epochs::{PayableReceipt, Payer, SettledReceipt, StoredEpoch};
pub use error::LedgerError;
pub use evidence::EvidenceRecord;
pub use fsck::fsck;
pub use input::InputWriter;
pub use jobs::{JobCounts, JobRecord};
pub use leases::{After, Ending, Requeued};
pub use ledger::Ledger;
pub use members::MemberRecord;
pub use models::ModelRecord;
pub use payments::PaymentRecord;
pub use queue::{QueueChange, QueuedRequest};
pub use receipts::{AuditOrder, LoggedReceipt, Standing, Work};
pub use requests::{NewRequest, RequestKind, RequestSummary, fields as request_fields};
pub use results::{ResultFile, ResultFiles, ResultsError};
pub use whole::NewJob;

//! IO: the steps of one transaction, each written down before the next one is taken. Where it is written down is the business of
//! whoever keeps it.

use super::{chains::Session, context::Context, error::Error};
use crate::chain::{ChainError, OutboxRecord, OutboxState};

/// Where one transaction is written down.
pub trait Keep {
    /// Writes a record down. Fails when somebody else wrote in between: then everything is read and decided again.
    fn write_down(&mut self, record: &OutboxRecord) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Takes every step that does not have to wait for the chain, and returns how far it came. `Err(ChainError)` inside means that the
/// chain or the contract did not let it go on; what was written down stands.
pub async fn advance(
    mut record: OutboxRecord,
    keeper: &mut impl Keep,
    session: &Session,
    context: &Context,
) -> Result<Result<OutboxRecord, ChainError>, Error> {
    while !record.is_finished() {
        let next = match session.step(&record, context.unix_seconds()).await {
            Ok(next) => next,
            Err(error) => return Ok(Err(error)),
        };
        if next == record {
            break;
        }
        keeper.write_down(&next).await?;
        record = next;
        // Back to the plan: its nonce went to another transaction. Decide anew before anything else is signed.
        if matches!(record.state, OutboxState::Planned) || record.waits_for_the_chain() {
            break;
        }
    }
    Ok(Ok(record))
}

//! IO: the identity that the pods of brief jobs share in a namespace. Made once, before the first of them; removed when the
//! namespace has no Local job any more.

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
    runtime::reflector::Store,
};

use super::access::{self, Access, SHARED, SHARED_COMPONENT};
use crate::{
    api::inference_job::Target,
    operator::{
        context::Context,
        error::{Error, is_not_found},
        inference_job::{MANAGER, known::KnownJob},
        runner::Guarded,
        write::{self, api_beside},
    },
};

/// How often identities that nobody needs are looked for.
const TIDIED_EVERY: Duration = Duration::from_secs(600);

/// Makes it and what it may do, unless it was seen there a moment ago. False when somebody else's account has its name.
pub async fn ensure(namespace: &str, context: &Context) -> Result<bool, Error> {
    let key = key(namespace);
    if context.sent.is_known(&key, &SHARED) {
        return Ok(true);
    }
    let accounts: Api<ServiceAccount> = api_beside(context, namespace);
    let found = accounts.get_opt(SHARED).await?;
    if found.as_ref().is_some_and(|found| !access::is_shared(found)) {
        return Ok(false);
    }
    let wanted = access::shared_account(namespace);
    let account = write::apply_over(&accounts, MANAGER, wanted, found.as_ref()).await?;
    // Without `..`: whoever adds an object has to say here what becomes of it.
    let Access { role, binding } = access::shared(namespace, &account);
    write::apply::<Role>(&api_beside(context, namespace), MANAGER, role).await?;
    write::apply::<RoleBinding>(&api_beside(context, namespace), MANAGER, binding).await?;
    context.sent.sent(&key, &SHARED);
    Ok(true)
}

fn key(namespace: &str) -> String {
    format!("job-pods/{namespace}")
}

/// Removes identities that nobody needs, now and then, until the process ends.
pub async fn tidy_forever(known: Store<Guarded<KnownJob>>, context: Arc<Context>) {
    if !context.config.local_jobs || known.wait_until_ready().await.is_err() {
        return;
    }
    loop {
        let local = |job: &Guarded<KnownJob>| job.0.as_ref().map_or(true, |job| job.target == Target::Local);
        // A malformed job counts: nothing is known of it.
        let needed = || known.state().iter().filter(|job| local(job)).filter_map(|job| job.namespace()).collect();
        if let Err(error) = tidy(needed, &context).await {
            tracing::info!(%error, "identities of Local jobs cannot be tidied now");
        }
        tokio::time::sleep(TIDIED_EVERY).await;
    }
}

/// Removes the identity of every namespace that is not among those `needed`. A job that comes at this very moment makes a new one
/// when it is looked at again.
pub async fn tidy(needed: impl Fn() -> HashSet<String>, context: &Context) -> Result<(), Error> {
    let everywhere: Api<ServiceAccount> = Api::all(context.client.clone());
    let (key_of, value) = SHARED_COMPONENT;
    let found = everywhere.list_metadata(&ListParams::default().labels(&format!("{key_of}={value}"))).await?;
    let needed = needed();
    for account in found.items {
        let Some(namespace) = account.namespace().filter(|namespace| !needed.contains(namespace)) else { continue };
        if account.name_any() != SHARED {
            continue;
        }
        context.sent.forget(&key(&namespace));
        let this_one = Preconditions { uid: account.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(this_one), ..DeleteParams::background() };
        match api_beside::<ServiceAccount>(context, &namespace).delete(SHARED, &params).await {
            Err(error) if !is_not_found(&error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

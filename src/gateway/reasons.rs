//! Reason codes that come from workers: as they are counted and reported, and which of them lie in the request. Pure.

/// A worker, or a verifier, cannot keep to the form that the request asks for.
pub(super) const FORM_REFUSED: &str = "FormRefused";

/// Reasons that a worker may give, as we count and report them: a stranger does not choose our labels.
pub(super) fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 16] = [
        "MalformedRequest",
        "ContextExceeded",
        "PromptRefused",
        FORM_REFUSED,
        "NoLease",
        "LeaseMismatch",
        "LeaseExpired",
        "Busy",
        "Draining",
        "NotCompute",
        "ModelNotReady",
        "RateLimited",
        "NotAuthenticated",
        "ProtocolViolation",
        "EngineFailed",
        "SigningFailed",
    ];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("Other")
}

pub(super) fn is_about_the_request(reason: &str) -> bool {
    matches!(reason, "MalformedRequest" | "ContextExceeded" | "PromptRefused" | FORM_REFUSED)
}

/// Label of a lost lease.
pub(super) fn cause(reason: &str) -> &'static str {
    const CAUSES: [&str; 11] = [
        "GatewayFailed",
        "WorkerGone",
        "RateLimited",
        "WorkerFailed",
        "HeartbeatLost",
        "ProtocolViolation",
        "ConnectionLost",
        "Stalled",
        "Cancelled",
        "WorkerExcluded",
        "InvalidReceipt",
    ];
    CAUSES.into_iter().find(|known| *known == reason).unwrap_or("Other")
}

//! Pure: what every pod of ours has in common, whoever it works for: the restricted standard, and devices.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{
            Capabilities, EmptyDirVolumeSource, PodResourceClaim, PodSecurityContext, ResourceClaim,
            ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
        },
        resource::v1::{DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaimSpec},
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::grid_node::validate::Hardware;
use crate::api::grid_node::WorkerResources;

/// User and group of the image.
const USER: i64 = 65532;
/// Name of the claim and its request, when devices are claimed.
const DEVICES: &str = "devices";

/// The restricted pod security standard.
pub fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

/// The same for a container.
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}

/// Requests and limits alike: what is measured today must be there tomorrow.
pub fn resources(hardware: &Hardware, amounts: &WorkerResources) -> ResourceRequirements {
    let mut amounts: BTreeMap<String, Quantity> =
        [("cpu".to_owned(), amounts.cpu.clone()), ("memory".to_owned(), amounts.memory.clone())].into();
    if let Hardware::ExtendedResource { name, count } = hardware {
        amounts.insert(name.clone(), Quantity(count.to_string()));
    }
    let claims = match hardware {
        Hardware::Dra { .. } => Some(vec![ResourceClaim { name: DEVICES.into(), ..ResourceClaim::default() }]),
        Hardware::ExtendedResource { .. } | Hardware::CpuOnly => None,
    };
    ResourceRequirements { requests: Some(amounts.clone()), limits: Some(amounts), claims }
}

/// The claims of a pod whose devices are made from `template`.
pub fn device_claims(hardware: &Hardware, template: &str) -> Option<Vec<PodResourceClaim>> {
    match hardware {
        Hardware::Dra { .. } => Some(vec![PodResourceClaim {
            name: DEVICES.into(),
            resource_claim_template_name: Some(template.into()),
            ..PodResourceClaim::default()
        }]),
        Hardware::ExtendedResource { .. } | Hardware::CpuOnly => None,
    }
}

/// What that template asks for; `None` without dynamic resource allocation.
pub fn claim_spec(hardware: &Hardware) -> Option<ResourceClaimSpec> {
    let Hardware::Dra { device_class, count } = hardware else { return None };
    let request = DeviceRequest {
        name: DEVICES.into(),
        exactly: Some(ExactDeviceRequest {
            device_class_name: device_class.clone(),
            allocation_mode: Some("ExactCount".into()),
            count: Some(i64::from(*count)),
            ..ExactDeviceRequest::default()
        }),
        ..DeviceRequest::default()
    };
    Some(ResourceClaimSpec { devices: Some(DeviceClaim { requests: Some(vec![request]), ..DeviceClaim::default() }) })
}

/// Scratch space.
pub fn scratch(name: &str, limit: &str) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(limit.into())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A volume's place in a container.
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(read_only).filter(|read_only| *read_only),
        ..VolumeMount::default()
    }
}

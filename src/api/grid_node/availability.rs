//! When a node takes work: windows of the week.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a node takes work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// The node takes work while any of these is open; an empty list means always. Example:
    /// `[{start: "20:00", end: "07:00", timeZone: Asia/Singapore}]`.
    #[serde(default)]
    #[schemars(length(max = 14))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub windows: Vec<AvailabilityWindow>,
}

/// A time of day on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.start != self.end").message("a window that ends when it starts is empty; the whole day is 00:00 to 24:00"))]
pub struct AvailabilityWindow {
    /// Days on which the window opens. Absent means every day. Example: `[Monday, Friday]`.
    #[serde(default = "every_day")]
    #[schemars(length(min = 1, max = 7))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub days: Vec<Day>,
    /// Time of day at which it opens, hours and minutes. Example: `20:00`.
    #[schemars(length(max = 5), regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub start: String,
    /// Time of day at which it closes, on the next day when it is not later than `start`; 24:00 is the end of the day.
    /// Example: `07:00`.
    #[schemars(length(max = 5), regex(pattern = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"))]
    pub end: String,
    /// Time zone of days and times: an IANA name or an offset. Example: `Europe/Berlin`, or `+08:00`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_+:/-]+$"))]
    pub time_zone: String,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

fn every_day() -> Vec<Day> {
    use Day::*;
    vec![Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday]
}

fn utc() -> String {
    "UTC".into()
}

/// The availability windows now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AvailabilityStatus {
    /// Whether the node may be given work now.
    pub open: bool,
    /// When that changes next; absent when it does not within a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

//! Resource types of `xdcgrid.io/v1alpha1`, their CEL rules and conditions, and the newtypes that the inside of the system
//! uses instead of raw strings and numbers. Pure: no client, no clock, no file.

#[cfg(feature = "kubernetes")]
pub mod conditions;
#[cfg(feature = "kubernetes")]
pub mod contribution_report;
#[cfg(feature = "kubernetes")]
pub mod crds;
#[cfg(feature = "kubernetes")]
pub mod grid_model;
#[cfg(feature = "kubernetes")]
pub mod grid_network;
#[cfg(feature = "kubernetes")]
pub mod grid_node;
#[cfg(feature = "kubernetes")]
pub mod grid_node_pool;
pub mod ids;
#[cfg(feature = "kubernetes")]
pub mod inference_job;
#[cfg(feature = "kubernetes")]
pub mod kueue;
#[cfg(feature = "kubernetes")]
pub mod local_placement;
pub mod reasons;
#[cfg(feature = "kubernetes")]
pub mod refs;
pub mod remedies;

/// Group of every kind.
pub const GROUP: &str = "xdcgrid.io";
/// The one served version.
pub const VERSION: &str = "v1alpha1";

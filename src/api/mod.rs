//! Resource types of `xdcgrid.io/v1alpha1`, their CEL rules and conditions, and the newtypes that the inside of the system
//! uses instead of raw strings and numbers. Pure: no client, no clock, no file.

pub mod ids;

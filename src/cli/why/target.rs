//! What `why` is asked about: a name, or a name with its kind as kubectl spells it.

use std::str::FromStr;

/// Kinds that can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Job,
    Node,
    Pool,
    Model,
    Network,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// None: a job of that name, else a node.
    pub kind: Option<Kind>,
    pub name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((kind, name)) = text.split_once('/') else {
            return Ok(Target { kind: None, name: text.to_owned() });
        };
        let plain = kind.to_ascii_lowercase();
        let plain = plain.strip_suffix(".xdcgrid.io").unwrap_or(&plain);
        let kind = match plain {
            "inferencejob" | "inferencejobs" | "ij" | "job" | "jobs" => Kind::Job,
            "gridnode" | "gridnodes" | "gn" | "node" | "nodes" => Kind::Node,
            "gridnodepool" | "gridnodepools" | "gnp" | "pool" | "pools" => Kind::Pool,
            "gridmodel" | "gridmodels" | "gm" | "model" | "models" => Kind::Model,
            "gridnetwork" | "gridnetworks" | "gnet" | "network" | "networks" => Kind::Network,
            _ => {
                return Err(format!(
                    "{kind:?} is no kind that can be explained: ij/JOB, gn/NODE, gnp/POOL, gm/MODEL or gnet/NETWORK"
                ));
            }
        };
        match name {
            "" => Err("the name is missing after the /".into()),
            name => Ok(Target { kind: Some(kind), name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_spelled_as_kubectl_spells_them() {
        for (text, kind) in [
            ("hello", None),
            ("ij/hello", Some(Kind::Job)),
            ("inferencejob.xdcgrid.io/hello", Some(Kind::Job)),
            ("GridNode/hello", Some(Kind::Node)),
            ("gridnodepools.xdcgrid.io/hello", Some(Kind::Pool)),
            ("gnp/hello", Some(Kind::Pool)),
            ("gm/hello", Some(Kind::Model)),
            ("gnet/hello", Some(Kind::Network)),
        ] {
            assert_eq!(text.parse(), Ok(Target { kind, name: "hello".into() }), "{text}");
        }
        assert!("pod/x".parse::<Target>().unwrap_err().contains("ij/JOB"));
        assert!("ij/".parse::<Target>().is_err());
    }
}

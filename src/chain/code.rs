//! Whether the code at an address is the contract that this release was built with.

/// Instruction before a 32-byte constant; where the compiler leaves room for a value that is known at deployment, it is followed by
/// 32 zero bytes. A constant zero is never written that way.
const PUSH32: u8 = 0x7f;
const WORD: usize = 32;
/// Enough of the code to find where it begins in the creation code.
const HEAD: usize = 64;

/// Whether `runtime` is what `creation` leaves on the chain, whatever values were put in at deployment.
pub fn is_deployed_from(creation: &[u8], runtime: &[u8]) -> bool {
    let Some(head) = runtime.get(..HEAD.min(runtime.len())).filter(|head| !head.is_empty()) else { return false };
    creation
        .windows(head.len())
        .enumerate()
        .filter(|(_, window)| *window == head)
        .filter_map(|(start, _)| creation.get(start..start + runtime.len()))
        .any(|template| fits(template, runtime))
}

/// Same bytes, but for words that the template leaves open.
fn fits(template: &[u8], runtime: &[u8]) -> bool {
    let mut open = 0;
    let mut previous = 0;
    for (index, (wanted, found)) in template.iter().zip(runtime).enumerate() {
        if open == 0 && previous == PUSH32 && template.get(index..index + WORD).is_some_and(|word| word == [0; WORD]) {
            open = WORD;
        }
        if open == 0 && wanted != found {
            return false;
        }
        open = open.saturating_sub(1);
        previous = *wanted;
    }
    template.len() == runtime.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Vec<u8> {
        let head: Vec<u8> = (1..=70).collect();
        [&head[..], &[PUSH32], &[0; 32], &[0x56, 0x5b]].concat()
    }

    fn runtime(value: u8) -> Vec<u8> {
        let mut code = template();
        code[71..103].fill(value);
        code
    }

    #[test]
    fn values_of_the_deployment_do_not_matter_and_everything_else_does() {
        let creation = [&[0x60, 0x80, 0x60][..], &template(), &[0xaa]].concat();
        assert!(is_deployed_from(&creation, &runtime(7)));
        let mut other = runtime(7);
        other[104] ^= 1;
        assert!(!is_deployed_from(&creation, &other));
        let mut other = runtime(7);
        other[69] ^= 1;
        assert!(!is_deployed_from(&creation, &other));
        assert!(!is_deployed_from(&creation, &[]), "no code is not our code");
        assert!(!is_deployed_from(&creation, &[runtime(7), vec![0; 200]].concat()));
    }
}

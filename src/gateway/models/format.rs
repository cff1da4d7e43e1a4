//! Whether a file contradicts the format that its GridModel names. The gateway serves no model, so it looks only as far as that takes: the
//! first bytes, and of a bundle the `model_type` in config.json. What it does not recognise is for the workers to judge.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde::Deserialize;

use crate::protocol::internal::ModelFormat;

/// A header of a tar, and what its files are padded to.
const BLOCK: usize = 512;
/// Files of a bundle that are looked at: config.json stands first where our documentation is followed.
const MAX_FILES: usize = 64;
const MAX_CONFIG: u64 = 1 << 20;

/// What a file can be told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gguf,
    Encoder,
    Decoder,
    /// A tar without a config.json that says more.
    Bundle,
}

/// Why the file cannot be of that format, for people. Blocks its thread.
pub(super) fn contradiction(path: &Path, format: ModelFormat) -> io::Result<Option<String>> {
    let Some(kind) = kind(&mut File::open(path)?)? else { return Ok(None) };
    let (is, should) = match (kind, format) {
        (Kind::Gguf, ModelFormat::Gguf)
        | (Kind::Encoder | Kind::Bundle, ModelFormat::Safetensors)
        | (Kind::Decoder | Kind::Bundle, ModelFormat::SafetensorsDecoder) => return Ok(None),
        (Kind::Gguf, _) => ("a GGUF file", "GGUF"),
        (Kind::Encoder, _) => ("a bundle of an encoder", "Safetensors"),
        (Kind::Decoder, _) => ("a bundle of a decoder", "SafetensorsDecoder"),
        (Kind::Bundle, _) => ("a tar", "Safetensors or SafetensorsDecoder"),
    };
    Ok(Some(format!(
        "the file is {is}, for which spec.format is {should}; formats never change, so make a new GridModel"
    )))
}

fn kind(file: &mut (impl Read + Seek)) -> io::Result<Option<Kind>> {
    let mut block = Vec::with_capacity(BLOCK);
    file.take(BLOCK as u64).read_to_end(&mut block)?;
    if block.starts_with(b"GGUF") {
        return Ok(Some(Kind::Gguf));
    }
    if !is_header(&block) {
        return Ok(None);
    }
    for _ in 0..MAX_FILES {
        let Some(bytes) = size(&block).filter(|_| is_header(&block)) else { break };
        if name(&block) == b"config.json" {
            let mut config = Vec::new();
            file.take(bytes.min(MAX_CONFIG)).read_to_end(&mut config)?;
            return Ok(Some(kind_of(&config)));
        }
        let padded = bytes.next_multiple_of(BLOCK as u64);
        file.seek(SeekFrom::Current(i64::try_from(padded).unwrap_or(i64::MAX)))?;
        block.clear();
        file.take(BLOCK as u64).read_to_end(&mut block)?;
    }
    Ok(Some(Kind::Bundle))
}

fn is_header(block: &[u8]) -> bool {
    block.len() == BLOCK && block.get(257..262) == Some(b"ustar")
}

fn name(block: &[u8]) -> &[u8] {
    let name = block.get(..100).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    name.strip_prefix(b"./").unwrap_or(name)
}

/// Octal digits; 8 GiB at most, which is more than a config.json that is looked for has before it.
fn size(block: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(block.get(124..136)?).ok()?;
    u64::from_str_radix(digits.trim_matches(['\0', ' ']), 8).ok()
}

fn kind_of(config: &[u8]) -> Kind {
    #[derive(Deserialize)]
    struct Typed {
        model_type: String,
    }
    match serde_json::from_slice::<Typed>(config) {
        Ok(Typed { model_type }) if model_type == "bert" => Kind::Encoder,
        Ok(_) => Kind::Decoder,
        Err(_) => Kind::Bundle,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[257..262].copy_from_slice(b"ustar");
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn found(bytes: &[u8]) -> Option<Kind> {
        kind(&mut Cursor::new(bytes)).unwrap()
    }

    const BERT: &[u8] = br#"{"model_type": "bert"}"#;
    const LLAMA: &[u8] = br#"{"model_type": "llama"}"#;

    #[test]
    fn files_are_told_apart_by_their_beginning() {
        assert_eq!(found(b"GGUF\x03\0\0\0"), Some(Kind::Gguf));
        assert_eq!(found(&file("config.json", BERT)), Some(Kind::Encoder));
        let late = [file("tokenizer.json", &[b'x'; 700]), file("./config.json", LLAMA)].concat();
        assert_eq!(found(&late), Some(Kind::Decoder));
        assert_eq!(found(&file("model.safetensors", b"x")), Some(Kind::Bundle));
        assert_eq!(found(&file("config.json", b"{")), Some(Kind::Bundle));
        for unknown in [&b""[..], b"GGU", b"anything else", &[0; 2000]] {
            assert_eq!(found(unknown), None);
        }
    }

    #[test]
    fn no_bytes_make_the_look_fail_or_go_on() {
        let whole = [file("tokenizer.json", b"x"), file("config.json", LLAMA)].concat();
        for end in 0..whole.len() {
            found(&whole[..end]);
        }
        let mut endless = file("a", b"");
        endless[124..136].copy_from_slice(b"777777777777");
        assert_eq!(found(&endless), Some(Kind::Bundle));
        endless[124..136].copy_from_slice(&[0xff; 12]);
        assert_eq!(found(&endless), Some(Kind::Bundle));
        let crowd: Vec<u8> = (0..200).flat_map(|_| file("a", b"")).collect();
        assert_eq!(found(&crowd), Some(Kind::Bundle));
    }

    #[test]
    fn only_a_contradiction_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = |bytes: &[u8], format| {
            let path = folder.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            contradiction(&path, format).unwrap()
        };
        use ModelFormat::{Gguf, Safetensors, SafetensorsDecoder};
        let (encoder, decoder) = (file("config.json", BERT), file("config.json", LLAMA));
        for (bytes, right) in [(&b"GGUF"[..], Gguf), (&encoder, Safetensors), (&decoder, SafetensorsDecoder)] {
            for format in [Gguf, Safetensors, SafetensorsDecoder] {
                assert_eq!(told(bytes, format).is_none(), format == right, "{format:?}");
            }
        }
        assert!(told(b"something else", Gguf).is_none());
    }
}

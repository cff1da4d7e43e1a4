//! Do our CUDA kernels compute what candle's operations compute? Here compiled for the CPU from the same source (`tests/cuda/on_cpu.cpp`), and
//! started by the engine's own code, so that what is not seen is the GPU alone.

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, gguf_file};
use libloading::Library;
use xdc_grid::inference::KvType;
use xdc_grid::inference::accelerator::{Arguments, DeviceModel, Launch, Launcher, profile};
use xdc_grid::inference::kv::KvCache;
use xdc_grid::inference::model::{Decoder, Segment};

use crate::accelerator::{Bounds, cache, compare, compute, logits};
use crate::engine::model_path;
use crate::engine_exact::go_on_together;
use crate::engine_files::choosy_model_of;
use crate::engine_oracle::gemma_path;

/// With weights in single precision nothing is rounded to eight bits between the two, only sums are taken in another order.
const SAME: Bounds = Bounds { row: 1e-3, mean: 1e-4, tie: 1e-3 };
/// Seen: 0.12 and 0.03. A number that is rounded the other way before a product with quantized weights.
const REAL: Bounds = Bounds { row: 0.2, mean: 0.08, tie: 0.3 };

type Change = fn(&mut Launch);
type Start = unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, *const Arguments, u64) -> c_int;

/// The kernels, compiled once for all tests of this program. One at a time: their threads' numbers are global there.
static KERNELS: LazyLock<Mutex<Library>> = LazyLock::new(|| {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/on_cpu.cpp");
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libattention.so");
    let options =
        ["-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-o"];
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let compiled = Command::new(&compiler).args(options).args([&library, &source]).output();
    let compiled = compiled.unwrap_or_else(|error| panic!("{compiler}, the C++ compiler: {error}"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    // SAFETY: it has nothing to run when it is loaded.
    Mutex::new(unsafe { Library::new(library) }.unwrap())
});

/// Starts the kernels on the CPU, after `change` had a look at what is to be started.
struct OnCpu<F: Fn(&mut Launch)> {
    /// The order in which threads run; another one for every launch.
    seed: AtomicU64,
    change: F,
}

fn on_cpu(change: impl Fn(&mut Launch) + Send + Sync + 'static) -> Arc<dyn Launcher> {
    Arc::new(OnCpu { seed: AtomicU64::new(0), change })
}

impl<F: Fn(&mut Launch) + Send + Sync> Launcher for OnCpu<F> {
    unsafe fn launch(&self, launch: &Launch) -> candle_core::Result<()> {
        let mut launch = launch.clone();
        (self.change)(&mut launch);
        let name = CString::new(launch.kernel.as_str()).unwrap();
        let ((width, height), seed) = (launch.grid, self.seed.fetch_add(1, Relaxed));
        let library = KERNELS.lock().unwrap();
        // SAFETY: the type of `launch` in on_cpu.cpp; the addresses are the caller's promise.
        let code = unsafe {
            let start = library.get::<Start>(b"launch").unwrap();
            start(name.as_ptr(), width, height, launch.threads, launch.shared_bytes, &launch.arguments, seed)
        };
        match code {
            0 => Ok(()),
            code => candle_core::bail!("{}: on_cpu.cpp says {code}", launch.kernel),
        }
    }
}

fn composed(path: &Path, layers: Option<usize>, kv_type: KvType) -> DeviceModel {
    DeviceModel::load(path, Device::Cpu, compute(), layers).unwrap().0.with_kv_type(kv_type)
}

/// The same with our own attention.
fn fused(path: &Path, layers: Option<usize>, kv_type: KvType) -> DeviceModel {
    let model = composed(path, layers, kv_type).with_fused_attention(on_cpu(|_| {}));
    assert_eq!(model.kernel_profile(), profile(&Device::Cpu, true, kv_type), "the kernels did not prove themselves");
    model
}

/// With queries and keys so large that most tokens look at few others: a wrong score shows.
fn tiny(family: &str, changes: &[(&str, gguf_file::Value)]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), choosy_model_of(family, GgmlDType::F32, changes, 4.0)).unwrap();
    file
}

/// Neighbours and halves, head norms, biases, windows and none: in one prefill, in chunks, and token by token.
#[test]
fn all_families_compute_the_same_as_by_candles_operations() {
    use gguf_file::Value::U32;
    let models = [
        ("llama", vec![("llama.attention.sliding_window", U32(5))]),
        ("qwen2", vec![]),
        ("qwen3", vec![]),
        (
            "gemma3",
            vec![("gemma3.attention.sliding_window", U32(7)), ("gemma3.attention.sliding_window_pattern", U32(2))],
        ),
    ];
    let tokens: Vec<u32> = (0..60).map(|i| (i * i * 7 + i * 3) % 256).collect();
    for (family, changes) in models {
        let file = tiny(family, &changes);
        for kv_type in KvType::ALL {
            let expected = logits(&composed(file.path(), None, kv_type), &tokens, tokens.len());
            let model = fused(file.path(), None, kv_type);
            for chunk in [1, 7, 60] {
                let what = format!("{family} in chunks of {chunk}, {kv_type}");
                compare(&what, &SAME, &expected, &logits(&model, &tokens, chunk));
            }
        }
    }
}

/// Beyond the first cut, with a window that begins behind it and without one.
#[test]
fn long_contexts_are_split_and_put_together() {
    use gguf_file::Value::U32;
    let changes = [
        ("gemma3.context_length", U32(800)),
        ("gemma3.attention.sliding_window", U32(200)),
        ("gemma3.attention.sliding_window_pattern", U32(2)),
    ];
    let file = tiny("gemma3", &changes);
    let tokens: Vec<u32> = (0..600).map(|i| (i * i * 7 + i * 3) % 256).collect();
    let last = |model: &DeviceModel| {
        let mut kv = cache(model, tokens.len());
        model.forward(&mut [Segment { kv: &mut kv, start: 0, tokens: &tokens[..595], wanted: 0 }]).unwrap();
        let rest: Vec<Vec<f32>> = (595..600).map(|at| step(model, &mut kv, &tokens[at..at + 1])).collect();
        rest
    };
    for kv_type in KvType::ALL {
        let expected = last(&composed(file.path(), None, kv_type));
        compare(&format!("split, {kv_type}"), &SAME, &expected, &last(&fused(file.path(), None, kv_type)));
    }
}

fn step(model: &DeviceModel, kv: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
    let start = kv.len();
    model.forward(&mut [Segment { kv, start, tokens, wanted: 1 }]).unwrap().logits(0).to_vec()
}

/// Keys a hundred thousand times as large are beyond half precision.
#[test]
fn what_half_precision_cannot_hold_does_not_become_infinite() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), choosy_model_of("llama", GgmlDType::F32, &[], 1e6)).unwrap();
    let tokens: Vec<u32> = (1..60).collect();
    for row in logits(&fused(file.path(), None, KvType::F16), &tokens, 30) {
        assert!(row.iter().all(|logit| logit.is_finite()), "{row:?}");
    }
}

/// A row's attention is summed in the same order whatever else is in the batch; weights in single precision are multiplied by candle, row by row.
#[test]
fn rows_of_a_ragged_batch_are_the_same_as_alone() {
    let file = tiny("qwen3", &[]);
    for kv_type in KvType::ALL {
        let model = fused(file.path(), None, kv_type);
        let sequences: [Vec<u32>; 4] = [(1..30).collect(), vec![7, 8], (100..180).collect(), (30..50).collect()];
        let alone: Vec<_> = sequences.iter().map(|tokens| logits(&model, tokens, tokens.len())).collect();
        let mut caches: Vec<KvCache> = sequences.iter().map(|tokens| cache(&model, tokens.len())).collect();
        let output = go_on_together(&model, &mut caches, &sequences, [28, 0, 50, 20]);
        let expected: Vec<Vec<f32>> = alone[0][28..].iter().chain(&alone[1]).chain(&alone[2][77..]).cloned().collect();
        let found: Vec<Vec<f32>> = (0..output.rows()).map(|row| output.logits(row).to_vec()).collect();
        compare("a ragged batch", &SAME, &expected, &found);
    }
}

/// Heads of 64 in groups of three, and of 256 in groups of four with windows, as real files have them.
#[test]
fn real_models_compute_nearly_the_same_as_by_candles_operations() {
    for (path, layers) in [(model_path(), 4), (gemma_path(), 6)] {
        let tokens: Vec<u32> = (0..70).map(|i| (i * i * 7 + i * 3) % 9000).collect();
        let expected = logits(&composed(&path, Some(layers), KvType::F32), &tokens, 70);
        let model = fused(&path, Some(layers), KvType::F32);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        compare(&name, &REAL, &expected, &logits(&model, &tokens, 35));
    }
}

#[test]
fn kernels_that_compute_something_else_or_fail_are_not_used() {
    let file = tiny("llama", &[("llama.context_length", gguf_file::Value::U32(400))]);
    let wrong: [(&str, Change); 4] = [
        ("nothing turned", |launch| launch.arguments.cosines = launch.arguments.sines),
        ("another scale", |launch| launch.arguments.scale *= 2.0),
        ("another layer's keys", |launch| launch.arguments.layer = i32::from(launch.kernel.starts_with("place"))),
        ("no such kernel", |launch| launch.kernel.push('?')),
    ];
    for (what, change) in wrong {
        let model = composed(file.path(), None, KvType::F32).with_fused_attention(on_cpu(change));
        assert_eq!(model.kernel_profile(), profile(&Device::Cpu, false, KvType::F32), "{what}");
        let tokens: Vec<u32> = (1..20).collect();
        let expected = logits(&composed(file.path(), None, KvType::F32), &tokens, 19);
        compare(what, &SAME, &expected, &logits(&model, &tokens, 19));
    }
}

//! With the feature `cuda`: compiles our CUDA kernels to PTX, by the compiler and for the GPUs that candle's own are compiled by and for.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    let source = "accelerator/attention/fused/attention.cu";
    println!("cargo::rerun-if-changed={source}");
    let kernels = cudaforge::KernelBuilder::new().source_files([source]).arg("-std=c++17").arg("-O3").build_ptx()?;
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("cargo sets OUT_DIR"))?;
    kernels.write(std::path::Path::new(&out).join("kernels.rs"))
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

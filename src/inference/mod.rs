//! The candle engine: GGUF files, models, KV cache, tokenizer, sampling. Does CPU/GPU work and reads model files; knows
//! nothing of networks, jobs or money.

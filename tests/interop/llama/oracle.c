/* llama.cpp as an oracle for the engine's tests: tokens, log-probabilities, greedy answers and speed.
 *
 *   oracle LIBS MODEL tokenize          texts on stdin, each ended by a zero byte; one line of token ids for each
 *   oracle LIBS MODEL vocab             as tokenize, but loads only the vocabulary of MODEL
 *   oracle LIBS MODEL score             token ids on stdin; a line "argmax logprob(next)" for each position
 *   oracle LIBS MODEL greedy COUNT      a line of token ids for each prompt on stdin; a line of up to COUNT greedy ids each
 *   oracle LIBS MODEL bench THREADS N   N lines "prefill decode" in tokens/s, 128 tokens and 32 tokens
 *
 * LIBS is the folder with the shared libraries of the npm package @node-llama-cpp/linux-x64 3.22.1 (MIT). They are opened
 * at run time; only the few declarations used are repeated here. Parameter structs are passed by value through buffers
 * that are larger than any version of them, which the x86-64 ABI allows; only the named leading fields are touched. */
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int32_t token;
typedef struct { void *devices, *overrides; int32_t n_gpu_layers; char rest[492]; } model_params;
typedef struct { uint32_t n_ctx, n_batch, n_ubatch, n_seq_max; char rest[496]; } context_params;
typedef struct { int32_t n_tokens; token *token; float *embd; int32_t *pos, *n_seq_id, **seq_id; int8_t *logits; } batch;

static void *ggml, *llama;
static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) { fprintf(stderr, "the llama.cpp library has no %s\n", name); exit(1); }
    return found;
}
#define FUNCTION(library, result, name, ...) ((result (*)(__VA_ARGS__))symbol(library, #name))

static void *open_library(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); exit(1); }
    return library;
}
static void quiet(int level, const char *text, void *data) { (void)data; if (level == 4) fputs(text, stderr); }

static void *load(const char *path, bool vocab_only) {
    model_params params = FUNCTION(llama, model_params, llama_model_default_params, void)();
    if (vocab_only) {
        /* The booleans follow the last pointer; the defaults begin with vocab_only = false, check_tensors = false,
         * use_extra_bufts = true. The offset is that of this library's version. */
        ((char *)&params)[72] = 1;
    }
    void *model = FUNCTION(llama, void *, llama_model_load_from_file, const char *, model_params)(path, params);
    if (!model) { fprintf(stderr, "llama.cpp cannot load %s\n", path); exit(1); }
    return model;
}
static void *context(void *model, int threads) {
    context_params params = FUNCTION(llama, context_params, llama_context_default_params, void)();
    params.n_ctx = 2048; params.n_batch = 2048; params.n_ubatch = 512;
    void *ctx = FUNCTION(llama, void *, llama_init_from_model, void *, context_params)(model, params);
    if (!ctx) { fprintf(stderr, "llama.cpp cannot make a context\n"); exit(1); }
    FUNCTION(llama, void, llama_set_n_threads, void *, int32_t, int32_t)(ctx, threads, threads);
    return ctx;
}
static void decode(void *ctx, batch b) {
    if (FUNCTION(llama, int32_t, llama_decode, void *, batch)(ctx, b)) { fprintf(stderr, "llama_decode failed\n"); exit(1); }
}
/* Computes tokens at positions from `start` on, with logits for all of them. */
static void feed(void *ctx, const token *tokens, int count, int start, bool all) {
    batch b = FUNCTION(llama, batch, llama_batch_init, int32_t, int32_t, int32_t)(count, 0, 1);
    b.n_tokens = count;
    for (int i = 0; i < count; i++) {
        b.token[i] = tokens[i]; b.pos[i] = start + i; b.n_seq_id[i] = 1; b.seq_id[i][0] = 0;
        b.logits[i] = all || i == count - 1;
    }
    decode(ctx, b);
    FUNCTION(llama, void, llama_batch_free, batch)(b);
}
static void forget(void *ctx) {
    FUNCTION(llama, void, llama_memory_clear, void *, bool)(FUNCTION(llama, void *, llama_get_memory, void *)(ctx), true);
}
static float *logits(void *ctx, int i) { return FUNCTION(llama, float *, llama_get_logits_ith, void *, int32_t)(ctx, i); }
static int best(const float *x, int n) { int b = 0; for (int i = 1; i < n; i++) if (x[i] > x[b]) b = i; return b; }
static int read_tokens(token **tokens) {
    int count = 0, room = 0; token next;
    *tokens = NULL;
    while (scanf("%d", &next) == 1) {
        if (count == room) *tokens = realloc(*tokens, sizeof(token) * (room = room ? 2 * room : 256));
        (*tokens)[count++] = next;
    }
    return count;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static void tokenize(const void *vocab) {
    char *text = NULL; size_t room = 0; ssize_t length;
    while ((length = getdelim(&text, &room, 0, stdin)) > 0) {
        if (text[length - 1] == 0) length--;
        token *tokens = malloc(sizeof(token) * (length + 16));
        int count = FUNCTION(llama, int32_t, llama_tokenize, const void *, const char *, int32_t, token *, int32_t, bool, bool)
            (vocab, text, length, tokens, length + 16, true, false);
        for (int i = 0; i < count; i++) printf(i ? " %d" : "%d", tokens[i]);
        puts("");
        free(tokens);
    }
}
static void score(void *ctx, int n_vocab) {
    token *tokens; int count = read_tokens(&tokens);
    feed(ctx, tokens, count, 0, true);
    for (int i = 0; i < count; i++) {
        float *l = logits(ctx, i); int b = best(l, n_vocab); double sum = 0;
        for (int j = 0; j < n_vocab; j++) sum += exp((double)l[j] - l[b]);
        double logprob = i + 1 < count ? (double)l[tokens[i + 1]] - l[b] - log(sum) : 0;
        printf("%d %.9f\n", b, logprob);
    }
}
static void greedy(void *ctx, const void *vocab, int n_vocab, int most) {
    char *line = NULL; size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        token *tokens = malloc(sizeof(token) * (strlen(line) + 1)); int count = 0;
        for (char *at = line, *end; tokens[count] = strtol(at, &end, 10), end != at; at = end) count++;
        if (count > 0) {
            forget(ctx);
            feed(ctx, tokens, count, 0, false);
        }
        float *l = count > 0 ? logits(ctx, count - 1) : NULL;
        for (int i = 0; l && i < most; i++) {
            token next = best(l, n_vocab);
            printf("%d ", next);
            if (FUNCTION(llama, bool, llama_vocab_is_eog, const void *, token)(vocab, next)) break;
            feed(ctx, &next, 1, count + i, false);
            l = logits(ctx, 0);
        }
        puts("");
        free(tokens);
    }
}
static void bench(void *ctx, int n_vocab, int runs) {
    for (int run = -1; run < runs; run++) {
        token tokens[128];
        for (int i = 0; i < 128; i++) tokens[i] = (i + 1) * 7919 % n_vocab;
        forget(ctx);
        double t0 = now();
        feed(ctx, tokens, 128, 0, false); logits(ctx, 127);
        double t1 = now();
        for (int i = 0; i < 32; i++) { token next = tokens[i]; feed(ctx, &next, 1, 128 + i, false); logits(ctx, 0); }
        double t2 = now();
        if (run >= 0) printf("%.2f %.2f\n", 128 / (t1 - t0), 32 / (t2 - t1));
    }
}

int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: oracle LIBS MODEL tokenize|vocab|score|greedy COUNT|bench THREADS N\n"); return 2; }
    open_library(argv[1], "libggml-base.so");
    ggml = open_library(argv[1], "libggml.v0.5.0.so");
    llama = open_library(argv[1], "libllama.v0.5.0.so");
    FUNCTION(llama, void, llama_log_set, void (*)(int, const char *, void *), void *)(quiet, NULL);
    FUNCTION(ggml, void, ggml_backend_load_all_from_path, const char *)(argv[1]);
    FUNCTION(llama, void, llama_backend_init, void)();
    const char *what = argv[3];
    void *model = load(argv[2], !strcmp(what, "vocab"));
    const void *vocab = FUNCTION(llama, const void *, llama_model_get_vocab, void *)(model);
    int n_vocab = FUNCTION(llama, int32_t, llama_vocab_n_tokens, const void *)(vocab);
    if (!strcmp(what, "tokenize") || !strcmp(what, "vocab")) tokenize(vocab);
    else if (!strcmp(what, "score")) score(context(model, 2), n_vocab);
    else if (!strcmp(what, "greedy") && argc > 4) greedy(context(model, 2), vocab, n_vocab, atoi(argv[4]));
    else if (!strcmp(what, "bench") && argc > 5) bench(context(model, atoi(argv[4])), n_vocab, atoi(argv[5]));
    else { fprintf(stderr, "unknown command %s\n", what); return 2; }
    fflush(stdout);
    return 0;
}

/* llama.cpp as an oracle for the engine's tests: tokens, log-probabilities, greedy answers and speed.
 *
 *   oracle LIBS MODEL tokenize          texts on stdin, each ended by a zero byte; one line of token ids for each
 *   oracle LIBS MODEL vocab             as tokenize, but loads only the vocabulary of MODEL
 *   oracle LIBS MODEL score             token ids on stdin; a line "argmax logprob(next)" for each position
 *   oracle LIBS MODEL greedy COUNT      a line of token ids for each prompt on stdin; a line of up to COUNT greedy ids each
 *   oracle LIBS MODEL bench THREADS PROMPT OUTPUT SEQUENCES
 *                                       a line "prefill decode" in tokens/s: prompts of PROMPT tokens one after another, then
 *                                       OUTPUT steps in which every sequence gets a token; the second of two runs
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
/* Room for so many sequences of 2048 tokens, or for many of 256: a sequence has an equal part. */
static void *context(void *model, int threads, int sequences) {
    context_params params = FUNCTION(llama, context_params, llama_context_default_params, void)();
    params.n_ctx = sequences == 1 ? 2048 : 256 * sequences; params.n_batch = 2048; params.n_ubatch = 512;
    params.n_seq_max = sequences;
    void *ctx = FUNCTION(llama, void *, llama_init_from_model, void *, context_params)(model, params);
    if (!ctx) { fprintf(stderr, "llama.cpp cannot make a context\n"); exit(1); }
    FUNCTION(llama, void, llama_set_n_threads, void *, int32_t, int32_t)(ctx, threads, threads);
    return ctx;
}
static void decode(void *ctx, batch b) {
    if (FUNCTION(llama, int32_t, llama_decode, void *, batch)(ctx, b)) { fprintf(stderr, "llama_decode failed\n"); exit(1); }
}
static batch room_for(int count) {
    batch b = FUNCTION(llama, batch, llama_batch_init, int32_t, int32_t, int32_t)(count, 0, 1);
    b.n_tokens = count;
    return b;
}
static void put(batch b, int i, token token, int position, int sequence, bool wanted) {
    b.token[i] = token; b.pos[i] = position; b.n_seq_id[i] = 1; b.seq_id[i][0] = sequence; b.logits[i] = wanted;
}
/* Computes tokens of a sequence at positions from `start` on, with logits for the last or for all of them. */
static void feed(void *ctx, const token *tokens, int count, int start, int sequence, bool all) {
    batch b = room_for(count);
    for (int i = 0; i < count; i++) put(b, i, tokens[i], start + i, sequence, all || i == count - 1);
    decode(ctx, b);
    FUNCTION(llama, void, llama_batch_free, batch)(b);
}
/* Computes one token of each sequence at the same position. */
static void step(void *ctx, token first, int position, int sequences, int n_vocab) {
    batch b = room_for(sequences);
    for (int i = 0; i < sequences; i++) put(b, i, (first + i * 31) % n_vocab, position, i, true);
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
    feed(ctx, tokens, count, 0, 0, true);
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
            feed(ctx, tokens, count, 0, 0, false);
        }
        float *l = count > 0 ? logits(ctx, count - 1) : NULL;
        for (int i = 0; l && i < most; i++) {
            token next = best(l, n_vocab);
            printf("%d ", next);
            if (FUNCTION(llama, bool, llama_vocab_is_eog, const void *, token)(vocab, next)) break;
            feed(ctx, &next, 1, count + i, 0, false);
            l = logits(ctx, 0);
        }
        puts("");
        free(tokens);
    }
}
static void bench(void *ctx, int n_vocab, int prompt, int output, int sequences) {
    token *tokens = malloc(sizeof(token) * prompt);
    /* The first run pays for memory that is touched for the first time. */
    for (int run = 0; run < 2; run++) {
        forget(ctx);
        double t0 = now();
        for (int s = 0; s < sequences; s++) {
            for (int i = 0; i < prompt; i++) tokens[i] = (s + 1) * (i + 1) * 7919 % n_vocab;
            feed(ctx, tokens, prompt, 0, s, false); logits(ctx, prompt - 1);
        }
        double t1 = now();
        for (int i = 0; i < output; i++) { step(ctx, (i + 1) * 7919 % n_vocab, prompt + i, sequences, n_vocab); logits(ctx, 0); }
        double t2 = now();
        if (run) printf("%.2f %.2f\n", prompt * sequences / (t1 - t0), output * sequences / (t2 - t1));
    }
    free(tokens);
}

int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: oracle LIBS MODEL tokenize|vocab|score|greedy COUNT|bench THREADS PROMPT OUTPUT SEQUENCES\n"); return 2; }
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
    else if (!strcmp(what, "score")) score(context(model, 2, 1), n_vocab);
    else if (!strcmp(what, "greedy") && argc > 4) greedy(context(model, 2, 1), vocab, n_vocab, atoi(argv[4]));
    else if (!strcmp(what, "bench") && argc > 7) bench(context(model, atoi(argv[4]), atoi(argv[7])), n_vocab, atoi(argv[5]), atoi(argv[6]), atoi(argv[7]));
    else { fprintf(stderr, "unknown command %s\n", what); return 2; }
    fflush(stdout);
    return 0;
}

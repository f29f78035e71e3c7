// Products of ternary weights with activations of 8 bits (BitNet b1.58: Ma et al. 2024, arXiv 2402.17764).
//
// A weight of -1, 0 or 1 is kept as the code 0, 1 or 2, in two bits. A block of 64 bytes holds 16 outputs by 16 inputs:
// byte 4 r + k, bits 2 j and 2 j + 1, are output r and input 4 j + k. Shifting a block j times thus leaves, in every
// four bytes, one output's codes for the same four inputs: what one instruction multiplies with these inputs and sums.
// Codes are one too many; the sum of the inputs is taken off at the end. All sums are integers and exact, so results
// depend neither on the order of summing nor on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "arguments.h"

// x: [tokens, in_features] float. codes: [ceil(out / 16), ceil(in / 16), 64] bytes. out: [tokens, out_features] float.
#define TERNARY_FIELDS(INTEGER, REAL, POINTER)                                     \
  INTEGER(tokens) INTEGER(in_features) INTEGER(out_features) INTEGER(threads)      \
  REAL(scale)                                                                      \
  POINTER(x) POINTER(codes) POINTER(out)

// One token of each sequence through a whole decoder (esper/kasmina/decoder.py). width: C; head width D is C / heads.
// tokens: [sequences] int64. embedding: [V, C]; head: [C, V]. norms: [2 layers + 1, C]: of attention and MLP of each
// layer, and the last. codes: [layers, 7] addresses, and scales: [layers, 7], of query, key, value, proj, gate, up, down.
// cosines, sines: [capacity, D / 2]. keys: [layers, sequences, heads, D, capacity]; values: [.., capacity, D].
#define DECODE_FIELDS(INTEGER, REAL, POINTER)                                                                \
  INTEGER(sequences) INTEGER(position) INTEGER(layers) INTEGER(width) INTEGER(hidden) INTEGER(heads)         \
  INTEGER(vocabulary) INTEGER(capacity) INTEGER(window) INTEGER(threads)                                     \
  REAL(eps)                                                                                                  \
  POINTER(tokens) POINTER(embedding) POINTER(head) POINTER(norms) POINTER(codes) POINTER(scales)             \
  POINTER(cosines) POINTER(sines) POINTER(keys) POINTER(values) POINTER(logits)

struct Ternary { TERNARY_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };
struct Decode { DECODE_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };

constexpr int kSide = 16, kBlockBytes = 64, kSteps = 4;  // steps of a block: inputs are taken four at a time
constexpr int kTokenTile = 4, kTokenGroup = 64;
constexpr int64_t kWorthThreads = 1 << 20;  // products below which a second thread costs more than it does

inline int64_t blocks_of(int64_t features) { return (features + kSide - 1) / kSide; }

// ---- sums of 16 outputs ----------------------------------------------------------------------------------------

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
struct Codes { __m512i step[kSteps]; };
struct Sums { __m512i outputs = _mm512_setzero_si512(); };
inline Codes expand(const uint8_t* block) {
  const __m512i packed = _mm512_loadu_si512(block), low = _mm512_set1_epi8(3);
  return {{_mm512_and_si512(packed, low), _mm512_and_si512(_mm512_srli_epi16(packed, 2), low),
           _mm512_and_si512(_mm512_srli_epi16(packed, 4), low), _mm512_and_si512(_mm512_srli_epi16(packed, 6), low)}};
}
inline void accumulate(Sums& sums, const Codes& codes, int step, int32_t inputs) {
  sums.outputs = _mm512_dpbusd_epi32(sums.outputs, codes.step[step], _mm512_set1_epi32(inputs));
}
inline void add(Sums& sums, const Sums& more) { sums.outputs = _mm512_add_epi32(sums.outputs, more.outputs); }
inline void store(int32_t* outputs, const Sums& sums) { _mm512_storeu_si512(outputs, sums.outputs); }
#elif defined(__AVX2__)
struct Codes { __m256i step[kSteps][2]; };
struct Sums { __m256i outputs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}; };
inline Codes expand(const uint8_t* block) {
  Codes codes;
  const __m256i low = _mm256_set1_epi8(3);
  for (int half = 0; half < 2; ++half) {
    const __m256i packed = _mm256_loadu_si256((const __m256i*)(block + 32 * half));
    codes.step[0][half] = _mm256_and_si256(packed, low);
    codes.step[1][half] = _mm256_and_si256(_mm256_srli_epi16(packed, 2), low);
    codes.step[2][half] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
    codes.step[3][half] = _mm256_and_si256(_mm256_srli_epi16(packed, 6), low);
  }
  return codes;
}
inline void accumulate(Sums& sums, const Codes& codes, int step, int32_t inputs) {
  const __m256i x = _mm256_set1_epi32(inputs), ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; ++half) {  // pairs are at most 2 * 2 * 128: far from where 16 bits saturate
    const __m256i pairs = _mm256_maddubs_epi16(codes.step[step][half], x);
    sums.outputs[half] = _mm256_add_epi32(sums.outputs[half], _mm256_madd_epi16(pairs, ones));
  }
}
inline void add(Sums& sums, const Sums& more) {
  for (int half = 0; half < 2; ++half) sums.outputs[half] = _mm256_add_epi32(sums.outputs[half], more.outputs[half]);
}
inline void store(int32_t* outputs, const Sums& sums) {
  for (int half = 0; half < 2; ++half) _mm256_storeu_si256((__m256i*)(outputs + 8 * half), sums.outputs[half]);
}
#else
struct Codes { uint8_t step[kSteps][kBlockBytes]; };
struct Sums { int32_t outputs[kSide] = {}; };
inline Codes expand(const uint8_t* block) {
  Codes codes;
  for (int step = 0; step < kSteps; ++step)
    for (int i = 0; i < kBlockBytes; ++i) codes.step[step][i] = block[i] >> 2 * step & 3;
  return codes;
}
inline void accumulate(Sums& sums, const Codes& codes, int step, int32_t inputs) {
  int8_t x[4];
  std::memcpy(x, &inputs, sizeof(x));
  for (int r = 0; r < kSide; ++r)
    for (int k = 0; k < 4; ++k) sums.outputs[r] += codes.step[step][4 * r + k] * x[k];
}
inline void add(Sums& sums, const Sums& more) {
  for (int r = 0; r < kSide; ++r) sums.outputs[r] += more.outputs[r];
}
inline void store(int32_t* outputs, const Sums& sums) { std::memcpy(outputs, sums.outputs, sizeof(sums.outputs)); }
#endif

// ---- activations -----------------------------------------------------------------------------------------------

// Tokens in 8 bits: x is about q * scale; a row of q is padded with zeros to whole blocks; offset is the sum of a row.
struct Activations {
  int64_t pitch;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> offset;
};

// A token with anything in it that is no finite number has no scale but NaN, and all its outputs are NaN.
inline void quantize(const float* x, int64_t n, int8_t* q, float& scale, int32_t& offset) {
  int32_t largest = 0, sum = 0;  // of non-negative floats, bits compare as the numbers do
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, sizeof(bits));
    largest = std::max(largest, bits & 0x7fffffff);
  }
  float absmax;
  std::memcpy(&absmax, &largest, sizeof(absmax));
  if (largest >= 0x7f800000) {
    std::memset(q, 0, n);
    scale = std::numeric_limits<float>::quiet_NaN();
    offset = 0;
    return;
  }
  absmax = std::max(absmax, 1e-5f);
  const float factor = 1.0f / absmax * 127.0f;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t rounded = (int32_t)std::nearbyint(x[i] * factor);
    q[i] = (int8_t)rounded;
    sum += rounded;
  }
  scale = absmax * (float)(1.0 / 127.0);
  offset = sum;
}

// ---- products --------------------------------------------------------------------------------------------------

// 16 outputs of T tokens. One token alone sums each step apart, so that no sum waits for the one before.
template <int T>
inline void tile(const uint8_t* codes, int64_t blocks, const Activations& x, int64_t token, float weight_scale,
                 float* out, int64_t out_pitch, int64_t outputs) {
  constexpr int kApart = T == 1 ? kSteps : 1;
  Sums sums[T][kApart];
  const int8_t* q = x.q.data() + token * x.pitch;
  for (int64_t block = 0; block < blocks; ++block) {
    const Codes expanded = expand(codes + block * kBlockBytes);
    for (int step = 0; step < kSteps; ++step)
      for (int t = 0; t < T; ++t) {
        int32_t inputs;
        std::memcpy(&inputs, q + t * x.pitch + block * kSide + 4 * step, sizeof(inputs));
        accumulate(sums[t][step % kApart], expanded, step, inputs);
      }
  }
  for (int t = 0; t < T; ++t) {
    for (int apart = 1; apart < kApart; ++apart) add(sums[t][0], sums[t][apart]);
    int32_t totals[kSide];
    store(totals, sums[t][0]);
    const float scale = x.scale[token + t] * weight_scale;
    for (int64_t r = 0; r < outputs; ++r)
      out[t * out_pitch + r] = (float)(totals[r] - x.offset[token + t]) * scale;
  }
}

// x: [tokens, features] -> q.
void quantize_all(const float* x, int64_t tokens, int64_t features, int threads, Activations& q) {
  q.pitch = blocks_of(features) * kSide;
  q.q.assign(tokens * q.pitch, 0);
  q.scale.resize(tokens);
  q.offset.resize(tokens);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t t = 0; t < tokens; ++t)
    quantize(x + t * features, features, q.q.data() + t * q.pitch, q.scale[t], q.offset[t]);
}

// out: [tokens, outputs].
void multiply(const Activations& x, int64_t tokens, const uint8_t* codes, int64_t outputs, float scale, float* out,
              int threads) {
  const int64_t blocks = x.pitch / kSide, rows = blocks_of(outputs), groups = (tokens + kTokenGroup - 1) / kTokenGroup;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* row_codes = codes + row * blocks * kBlockBytes;
      const int64_t count = std::min<int64_t>(kSide, outputs - row * kSide);
      const int64_t end = std::min<int64_t>(tokens, (group + 1) * kTokenGroup);
      float* row_out = out + row * kSide;
      int64_t t = group * kTokenGroup;
      for (; t + kTokenTile <= end; t += kTokenTile)
        tile<kTokenTile>(row_codes, blocks, x, t, scale, row_out + t * outputs, outputs, count);
      for (; t < end; ++t) tile<1>(row_codes, blocks, x, t, scale, row_out + t * outputs, outputs, count);
    }
}

inline int threads_for(int64_t products, int64_t threads) { return products < kWorthThreads ? 1 : (int)threads; }

void linear(const Ternary& p) {
  thread_local Activations x;
  const int threads = threads_for(p.tokens * p.in_features * p.out_features, p.threads);
  quantize_all((const float*)p.x, p.tokens, p.in_features, threads, x);
  multiply(x, p.tokens, (const uint8_t*)p.codes, p.out_features, (float)p.scale, (float*)p.out, threads);
}

// ---- a decoder's step ------------------------------------------------------------------------------------------

// e^x to about one part in 10^7, in a form that compilers vectorise (Cephes: Moshier 1989).
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float series = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
                        1.6666665459e-1f) * r + 5.0000001201e-1f;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return (series * r * r + r + 1.0f) * power;
}

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(squares / n + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

// Turns each feature of the first half and the one as far in the second, [D].
inline void rotate(float* x, const float* cosines, const float* sines, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half];
    x[i] = first * cosines[i] - second * sines[i];
    x[i + half] = first * sines[i] + second * cosines[i];
  }
}

// One head's look at the `count` positions from `start` on. query, out: [D]. keys: [D, capacity]. values: [capacity, D].
inline void attend(const float* query, const float* keys, const float* values, int64_t d, int64_t capacity,
                   int64_t start, int64_t count, float* weights, float* out) {
  std::fill_n(weights, count, 0.0f);
  for (int64_t i = 0; i < d; ++i)
    for (int64_t t = 0; t < count; ++t) weights[t] += query[i] * keys[i * capacity + start + t];
  const float factor = 1.0f / std::sqrt((float)d);
  float largest = weights[0];
#pragma omp simd reduction(max : largest)
  for (int64_t t = 0; t < count; ++t) largest = std::max(largest, weights[t]);
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t t = 0; t < count; ++t) total += weights[t] = exponential((weights[t] - largest) * factor);
  std::fill_n(out, d, 0.0f);
  for (int64_t t = 0; t < count; ++t) {
    const float weight = weights[t] / total;
    for (int64_t i = 0; i < d; ++i) out[i] += weight * values[(start + t) * d + i];
  }
}

struct Features { std::vector<float> x, normed, query, key, value, mixed, gate, up, weights; };

void decode(const Decode& p) {
  thread_local Features f;
  thread_local Activations q;
  const int64_t n = p.sequences, c = p.width, d = c / p.heads, plane = d * p.capacity;
  for (auto* part : {&f.x, &f.normed, &f.query, &f.key, &f.value, &f.mixed}) part->resize(n * c);
  for (auto* part : {&f.gate, &f.up}) part->resize(n * p.hidden);
  f.weights.resize(p.capacity);
  for (int64_t b = 0; b < n; ++b)
    std::copy_n((const float*)p.embedding + ((const int64_t*)p.tokens)[b] * c, c, f.x.data() + b * c);
  const float *cosines = (const float*)p.cosines + p.position * d / 2, *sines = (const float*)p.sines + p.position * d / 2;
  const int64_t start = std::max<int64_t>(0, p.position + 1 - p.window), count = p.position + 1 - start;

  const float* scales = (const float*)p.scales;
  uint8_t* const* codes = (uint8_t* const*)p.codes;
  const auto times = [&](int part, int64_t outputs, std::vector<float>& out) {
    multiply(q, n, codes[part], outputs, scales[part], out.data(), threads_for(n * q.pitch * outputs, p.threads));
  };
  const auto normed = [&](int64_t norm) {
    for (int64_t b = 0; b < n; ++b)
      rms_norm(f.x.data() + b * c, (const float*)p.norms + norm * c, c, (float)p.eps, f.normed.data() + b * c);
  };
  for (int64_t layer = 0; layer < p.layers; ++layer, codes += 7, scales += 7) {
    normed(2 * layer);
    quantize_all(f.normed.data(), n, c, 1, q);
    times(0, c, f.query);
    times(1, c, f.key);
    times(2, c, f.value);
    for (int64_t b = 0; b < n; ++b)
      for (int64_t h = 0; h < p.heads; ++h) {
        const int64_t at = b * c + h * d;
        float* keys = (float*)p.keys + ((layer * n + b) * p.heads + h) * plane;
        float* values = (float*)p.values + ((layer * n + b) * p.heads + h) * plane;
        rotate(f.query.data() + at, cosines, sines, d / 2);
        rotate(f.key.data() + at, cosines, sines, d / 2);
        for (int64_t i = 0; i < d; ++i) keys[i * p.capacity + p.position] = f.key[at + i];
        std::copy_n(f.value.data() + at, d, values + p.position * d);
        attend(f.query.data() + at, keys, values, d, p.capacity, start, count, f.weights.data(), f.mixed.data() + at);
      }
    quantize_all(f.mixed.data(), n, c, 1, q);
    times(3, c, f.normed);
    for (int64_t i = 0; i < n * c; ++i) f.x[i] += f.normed[i];
    normed(2 * layer + 1);
    quantize_all(f.normed.data(), n, c, 1, q);
    times(4, p.hidden, f.gate);
    times(5, p.hidden, f.up);
    for (int64_t i = 0; i < n * p.hidden; ++i) f.up[i] *= f.gate[i] / (1.0f + exponential(-f.gate[i]));
    quantize_all(f.up.data(), n, p.hidden, 1, q);
    times(6, c, f.normed);
    for (int64_t i = 0; i < n * c; ++i) f.x[i] += f.normed[i];
  }
  normed(2 * p.layers);
  for (int64_t b = 0; b < n; ++b) {
    float* logits = (float*)p.logits + b * p.vocabulary;
    std::fill_n(logits, p.vocabulary, 0.0f);
    for (int64_t i = 0; i < c; ++i) {
      const float feature = f.normed[b * c + i], *row = (const float*)p.head + i * p.vocabulary;
      for (int64_t v = 0; v < p.vocabulary; ++v) logits[v] += feature * row[v];
    }
  }
}

extern "C" {
const char* ternary_fields() { return TERNARY_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
const char* decode_fields() { return DECODE_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
int64_t ternary_bytes() { return sizeof(Ternary); }
int64_t decode_bytes() { return sizeof(Decode); }
void ternary_linear(const Ternary* arguments) { linear(*arguments); }
void ternary_decode(const Decode* arguments) { decode(*arguments); }
}

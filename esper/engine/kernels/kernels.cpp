// Training kernels for many small convolutional networks on a CPU.
//
// An activation is [R, C, H, W, N]: R networks ("rows"), N samples innermost, so that every vector lane is one sample,
// no convolution needs a shuffle and borders are a matter of loop bounds. One thread owns one row at a time: its
// convolution output is still in the second-level cache when normalisation, ReLU and pooling pass over it. Results
// do not depend on the number of threads.
//
// A block is: convolution (1x1 or 3x3, stride 1, 'same'; dense or depthwise), batch norm, ReLU, 2x2 max pooling; any
// part may be missing.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "arguments.h"

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kChannelTile = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kChannelTile = 2;
#else
constexpr int kVectorBytes = 16, kChannelTile = 4;
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> { typedef float V __attribute__((vector_size(kVectorBytes))); };
template <> struct Lanes<double> { typedef double V __attribute__((vector_size(kVectorBytes))); };
template <class T> using Vec = typename Lanes<T>::V;
template <class T> constexpr int kLanes = kVectorBytes / sizeof(T);

// Rows of samples are not aligned to vectors; memcpy becomes one unaligned move.
template <class V, class T> inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}
template <class V, class T> inline void store(T* p, V v) { std::memcpy(p, &v, sizeof(V)); }

template <class T> inline T lane_sum(T v) { return v; }
template <class T> inline T lane_sum(Vec<T> v) {
  T total = 0;
  for (int l = 0; l < kLanes<T>; ++l) total += v[l];
  return total;
}

template <class T> inline T inverse_root(T v) { return 1 / std::sqrt(v); }
template <class T> inline Vec<T> inverse_root(Vec<T> v) {
  for (int l = 0; l < kLanes<T>; ++l) v[l] = 1 / std::sqrt(v[l]);
  return v;
}

// kernel: 0 (no convolution), 1 or 3. x_row_stride: 0 where every row reads the same input. y: the convolution's output,
// kept for the backward pass; null where it is not. mean, invstd: [R, C]. grad_x: null where it is not wanted.
#define BLOCK_FIELDS(INTEGER, REAL, POINTER)                                                          \
  INTEGER(rows) INTEGER(in_channels) INTEGER(out_channels) INTEGER(height) INTEGER(width)             \
  INTEGER(samples) INTEGER(kernel) INTEGER(depthwise) INTEGER(norm) INTEGER(relu) INTEGER(pool)       \
  INTEGER(training) INTEGER(threads) INTEGER(x_row_stride)                                            \
  REAL(eps) REAL(momentum)                                                                            \
  POINTER(x) POINTER(weight) POINTER(bias) POINTER(gamma) POINTER(beta) POINTER(running_mean)         \
  POINTER(running_var) POINTER(y) POINTER(mean) POINTER(invstd) POINTER(out) POINTER(grad_out)        \
  POINTER(grad_x) POINTER(grad_weight) POINTER(grad_bias) POINTER(grad_gamma) POINTER(grad_beta)

// A row is [size, samples]. alpha: [rows, samples] where it is per sample, else [rows]. kept: [rows, 2, samples].
// straight_through: [rows], 1 where the gradient passes straight to the seed. is_finite: [rows], 1 where the seed is finite.
#define SEED_FIELDS(INTEGER, REAL, POINTER)                                                           \
  INTEGER(rows) INTEGER(size) INTEGER(samples) INTEGER(alpha_per_sample) INTEGER(threads)             \
  REAL(max_ratio) REAL(eps)                                                                           \
  POINTER(x) POINTER(delta) POINTER(out) POINTER(kept) POINTER(alpha) POINTER(straight_through) POINTER(is_finite)    \
  POINTER(grad_out) POINTER(grad_x) POINTER(grad_delta) POINTER(grad_alpha)

struct Block { BLOCK_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };
struct Seed { SEED_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };

// Memory of a thread's own, kept from call to call: a fresh piece costs a page fault for every four kilobytes.
template <class T> class Scratch {
 public:
  T* get(size_t count) {
    if (count > count_) memory_.reset(new T[count_ = count]);
    return memory_.get();
  }

 private:
  std::unique_ptr<T[]> memory_;
  size_t count_ = 0;
};

// Sums over a channel's values less `shift`, of them and of their squares, taken while they are still in registers. Any
// value of the channel will do as the shift: it only has to lie near the mean.
template <class T> struct ChannelSums {
  Vec<T> first = {}, second = {};
  T first_rest = 0, second_rest = 0, shift = 0;
};

template <class T> inline void add_to(ChannelSums<T>& sums, Vec<T> first, Vec<T> second) {
  sums.first += first;
  sums.second += second;
}
template <class T> inline void add_to(ChannelSums<T>& sums, T first, T second) {
  sums.first_rest += first;
  sums.second_rest += second;
}

template <class T> inline void moments_of(const ChannelSums<T>& sums, int64_t count, T& mean, T& variance) {
  const T first = (lane_sum<T>(sums.first) + sums.first_rest) / count;
  const T second = (lane_sum<T>(sums.second) + sums.second_rest) / count;
  mean = sums.shift + first;
  variance = second - first * first;
  if (variance < 0) variance = 0;
}

// ---- convolution -----------------------------------------------------------------------------------------------

// Output channels [0, OB) at one position and NV vectors of samples. sums: of each channel, null where not wanted.
template <class V, class T, int OB, int NV>
inline void conv_tile(const T* x, const T* w, const T* bias, T* out, int64_t in, int64_t h, int64_t wd, int64_t n,
                      int k, int64_t row, int64_t col, ChannelSums<T>* sums) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  const int p = k / 2;
  const int ky0 = std::max<int64_t>(0, p - row), ky1 = std::min<int64_t>(k, h + p - row);
  const int kx0 = std::max<int64_t>(0, p - col), kx1 = std::min<int64_t>(k, wd + p - col);
  V acc[OB][NV];
  for (int o = 0; o < OB; ++o)
    for (int v = 0; v < NV; ++v) acc[o][v] = V{} + (bias ? bias[o] : T(0));
  for (int64_t i = 0; i < in; ++i)
    for (int ky = ky0; ky < ky1; ++ky) {
      const T* xp = x + ((i * h + row + ky - p) * wd + col + kx0 - p) * n;
      const T* wp = w + ((i * k + ky) * k + kx0) * OB;
      for (int kx = kx0; kx < kx1; ++kx, xp += n, wp += OB) {
        V xv[NV];
        for (int v = 0; v < NV; ++v) xv[v] = load<V>(xp + v * lanes);
        for (int o = 0; o < OB; ++o)
          for (int v = 0; v < NV; ++v) acc[o][v] += xv[v] * wp[o];
      }
    }
  for (int o = 0; o < OB; ++o)
    for (int v = 0; v < NV; ++v) store<V>(out + (o * h * wd + row * wd + col) * n + v * lanes, acc[o][v]);
  if (!sums) return;
  for (int o = 0; o < OB; ++o) {
    V first = {}, second = {};
    for (int v = 0; v < NV; ++v) {
      const V d = acc[o][v] - sums[o].shift;
      first += d;
      second += d * d;
    }
    add_to<T>(sums[o], first, second);
  }
}

template <class T> struct Convolution {
  const T *x, *w, *bias;
  T* out;
  int64_t in, outc, h, wd, n;
  int k;

  // The samples that one pass takes from `s` on.
  int64_t span(int64_t s) const {
    const int64_t left = n - s;
    return left >= 4 * kLanes<T> ? 4 * kLanes<T> : left >= kLanes<T> ? kLanes<T> : 1;
  }

  template <int OB> void channels(int64_t o, int64_t row, int64_t col, int64_t s, ChannelSums<T>* sums) const {
    const T *from = x + s, *packed = w + o * in * k * k, *start = bias ? bias + o : nullptr;
    T* to = out + o * h * wd * n + s;
    ChannelSums<T>* own = sums ? sums + o : nullptr;
    if (span(s) == 4 * kLanes<T>) conv_tile<Vec<T>, T, OB, 4>(from, packed, start, to, in, h, wd, n, k, row, col, own);
    else if (span(s) == kLanes<T>) conv_tile<Vec<T>, T, OB, 1>(from, packed, start, to, in, h, wd, n, k, row, col, own);
    else conv_tile<T, T, OB, 1>(from, packed, start, to, in, h, wd, n, k, row, col, own);
  }

  // Channels are taken kChannelTile at a time, then 2, then 1; `w` is packed by pack() in the same order.
  void position(int64_t row, int64_t col, int64_t s, ChannelSums<T>* sums) const {
    int64_t o = 0;
    for (; o + kChannelTile <= outc; o += kChannelTile) channels<kChannelTile>(o, row, col, s, sums);
    for (; o + 2 <= outc; o += 2) channels<2>(o, row, col, s, sums);
    for (; o < outc; ++o) channels<1>(o, row, col, s, sums);
  }

  void run(ChannelSums<T>* sums = nullptr) const {
    if (sums) {
      position(h / 2, wd / 2, 0, nullptr);
      for (int64_t o = 0; o < outc; ++o) {
        const T* centre = out + ((o * h + h / 2) * wd + wd / 2) * n;
        sums[o] = {};
        for (int64_t s = 0; s < span(0); ++s) sums[o].shift += centre[s] / span(0);
      }
    }
    for (int64_t s = 0; s < n; s += span(s))
      for (int64_t row = 0; row < h; ++row)
        for (int64_t col = 0; col < wd; ++col) position(row, col, s, sums);
  }
};

// [O, I, k, k] to tiles of [I, k, k, tile]; `flip` packs the transposed, mirrored kernel that carries gradients back.
template <class T> void pack(const T* w, T* packed, int64_t outc, int64_t in, int k, bool flip) {
  const int64_t to = flip ? in : outc, from = flip ? outc : in;
  const int taps = k * k;
  for (int64_t o = 0; o < to;) {
    const int64_t tile = o + kChannelTile <= to ? kChannelTile : o + 2 <= to ? 2 : 1;
    for (int64_t i = 0; i < from; ++i)
      for (int t = 0; t < taps; ++t)
        for (int64_t c = 0; c < tile; ++c)
          *packed++ = flip ? w[(i * in + o + c) * taps + taps - 1 - t] : w[((o + c) * in + i) * taps + t];
    o += tile;
  }
}

// Dot products of OB output and IB input channels over one run of positions, for K neighbouring taps of a kernel's row at
// once: a loaded gradient then serves them all. U vectors at a time where the rest alone leaves the adders idle.
template <class T, int OB, int IB, int K, int U>
inline void weight_run(const T* g, const T* x, int64_t plane, int64_t n, int64_t length, Vec<T> (*sums)[OB][IB],
                       T (*rests)[OB][IB]) {
  constexpr int lanes = kLanes<T>;
  Vec<T> acc[U][K][OB][IB] = {};
  int64_t l = 0;
  for (; l + U * lanes <= length; l += U * lanes)
    for (int u = 0; u < U; ++u) {
      Vec<T> xv[K][IB];
      for (int t = 0; t < K; ++t)
        for (int i = 0; i < IB; ++i) xv[t][i] = load<Vec<T>>(x + i * plane + t * n + l + u * lanes);
      for (int o = 0; o < OB; ++o) {
        const Vec<T> gv = load<Vec<T>>(g + o * plane + l + u * lanes);
        for (int t = 0; t < K; ++t)
          for (int i = 0; i < IB; ++i) acc[u][t][o][i] += gv * xv[t][i];
      }
    }
  for (int u = 0; u < U; ++u)
    for (int t = 0; t < K; ++t)
      for (int o = 0; o < OB; ++o)
        for (int i = 0; i < IB; ++i) sums[t][o][i] += acc[u][t][o][i];
  for (; l < length; ++l)
    for (int t = 0; t < K; ++t)
      for (int o = 0; o < OB; ++o)
        for (int i = 0; i < IB; ++i) rests[t][o][i] += g[o * plane + l] * x[i * plane + t * n + l];
}

// Weight gradients of OB output and IB input channels. Row by row, so that all taps of the kernel find the same few rows
// in the first-level cache; K of a row's three at once, but at its ends, where one of them is outside.
template <class T, int OB, int IB, int K, int U>
void weight_tile(const T* g, const T* x, T* gw, int64_t gw_o, int64_t gw_i, int64_t h, int64_t wd, int64_t n, int k) {
  const int64_t plane = h * wd * n, pitch = wd * n;
  const int p = k / 2;
  Vec<T> sums[9][OB][IB] = {};
  T rests[9][OB][IB] = {};
  for (int64_t row = 0; row < h; ++row)
    for (int ky = std::max<int64_t>(0, p - row); ky < std::min<int64_t>(k, h + p - row); ++ky) {
      const T *gp = g + row * pitch, *xp = x + (row + ky - p) * pitch;
      const int tap = ky * k;
      if (K == 3 && k == 3 && wd > 2) {
        const int64_t end = (wd - 1) * n;
        weight_run<T, OB, IB, K, U>(gp + n, xp, plane, n, end - n, sums + tap, rests + tap);
        for (int kx = 1; kx < 3; ++kx)
          weight_run<T, OB, IB, 1, 1>(gp, xp + (kx - 1) * n, plane, n, n, sums + tap + kx, rests + tap + kx);
        for (int kx = 0; kx < 2; ++kx)
          weight_run<T, OB, IB, 1, 1>(gp + end, xp + end + (kx - 1) * n, plane, n, n, sums + tap + kx, rests + tap + kx);
        continue;
      }
      for (int kx = 0; kx < k; ++kx) {
        const int64_t x0 = std::max(0, p - kx), length = (std::min<int64_t>(wd, wd + p - kx) - x0) * n;
        weight_run<T, OB, IB, 1, U>(gp + x0 * n, xp + (x0 + kx - p) * n, plane, n, length, sums + tap + kx,
                                    rests + tap + kx);
      }
    }
  for (int o = 0; o < OB; ++o)
    for (int i = 0; i < IB; ++i)
      for (int tap = 0; tap < k * k; ++tap)
        gw[o * gw_o + i * gw_i + tap] = lane_sum<T>(sums[tap][o][i]) + rests[tap][o][i];
}

constexpr int64_t kWide = 8;

template <class T>
void conv_grad_weight(const T* g, const T* x, T* gw, int64_t outc, int64_t in, int64_t h, int64_t wd, int64_t n, int k) {
  const int64_t plane = h * wd * n, taps = k * k;
  int64_t o = 0;
  const auto at = [&](auto tile, int64_t i) {
    tile(g + o * plane, x + i * plane, gw + (o * in + i) * taps, in * taps, taps, h, wd, n, k);
  };
  for (; o + 4 <= outc; o += 4) {
    int64_t i = 0;
    if (k == 3 && wd >= kWide)
      for (; i + 2 <= in; i += 2) at(weight_tile<T, 4, 2, 3, 1>, i);
    for (; i + 4 <= in; i += 4) at(weight_tile<T, 4, 4, 1, 1>, i);
    for (; i + 2 <= in; i += 2) at(weight_tile<T, 4, 2, 1, 2>, i);
    for (; i < in; ++i) at(weight_tile<T, 4, 1, 3, 1>, i);
  }
  for (; o < outc; ++o)
    for (int64_t i = 0; i < in; ++i) at(weight_tile<T, 1, 1, 3, 2>, i);
}

// sums: of each output channel, null where not wanted.
template <class T>
void conv_row(const Block& b, const T* x, const T* w, const T* bias, T* y, Scratch<T>& packed, ChannelSums<T>* sums) {
  const int k = b.kernel;
  const int64_t h = b.height, wd = b.width, n = b.samples, plane = h * wd * n;
  if (b.depthwise) {
    for (int64_t c = 0; c < b.out_channels; ++c)
      Convolution<T>{x + c * plane, w + c * k * k, bias ? bias + c : nullptr, y + c * plane, 1, 1, h, wd, n, k}.run(
          sums ? sums + c : nullptr);
    return;
  }
  T* tiles = packed.get(b.out_channels * b.in_channels * k * k);
  pack<T>(w, tiles, b.out_channels, b.in_channels, k, false);
  Convolution<T>{x, tiles, bias, y, b.in_channels, b.out_channels, h, wd, n, k}.run(sums);
}

template <class T>
void conv_row_backward(const Block& b, const T* x, const T* w, const T* g, T* gx, T* gw, T* gb, Scratch<T>& packed) {
  const int k = b.kernel;
  const int64_t h = b.height, wd = b.width, n = b.samples, plane = h * wd * n;
  if (gb)
    for (int64_t c = 0; c < b.out_channels; ++c) {
      Vec<T> total = {};
      T rest = 0;
      int64_t j = 0;
      for (; j + kLanes<T> <= plane; j += kLanes<T>) total += load<Vec<T>>(g + c * plane + j);
      for (; j < plane; ++j) rest += g[c * plane + j];
      gb[c] = lane_sum<T>(total) + rest;
    }
  T* tiles = packed.get(b.out_channels * (b.depthwise ? 1 : b.in_channels) * k * k);
  if (b.depthwise) {
    for (int64_t c = 0; c < b.out_channels; ++c) {
      conv_grad_weight<T>(g + c * plane, x + c * plane, gw + c * k * k, 1, 1, h, wd, n, k);
      if (!gx) continue;
      pack<T>(w + c * k * k, tiles, 1, 1, k, true);
      Convolution<T>{g + c * plane, tiles, nullptr, gx + c * plane, 1, 1, h, wd, n, k}.run();
    }
    return;
  }
  conv_grad_weight<T>(g, x, gw, b.out_channels, b.in_channels, h, wd, n, k);
  if (!gx) return;
  pack<T>(w, tiles, b.out_channels, b.in_channels, k, true);
  Convolution<T>{g, tiles, nullptr, gx, b.out_channels, b.in_channels, h, wd, n, k}.run();
}

// ---- batch norm, ReLU, pooling ---------------------------------------------------------------------------------

template <class T> void moments(const T* y, int64_t count, T& mean, T& variance) {
  Vec<T> total[4] = {};
  T rest = 0;
  int64_t j = 0;
  for (; j + 4 * kLanes<T> <= count; j += 4 * kLanes<T>)
    for (int u = 0; u < 4; ++u) total[u] += load<Vec<T>>(y + j + u * kLanes<T>);
  for (; j < count; ++j) rest += y[j];
  mean = (lane_sum<T>(total[0] + total[1] + total[2] + total[3]) + rest) / count;
  Vec<T> square[4] = {};
  T rest_square = 0;
  for (j = 0; j + 4 * kLanes<T> <= count; j += 4 * kLanes<T>)
    for (int u = 0; u < 4; ++u) {
      const Vec<T> d = load<Vec<T>>(y + j + u * kLanes<T>) - mean;
      square[u] += d * d;
    }
  for (; j < count; ++j) rest_square += (y[j] - mean) * (y[j] - mean);
  variance = (lane_sum<T>(square[0] + square[1] + square[2] + square[3]) + rest_square) / count;
}

// Of values that are not numbers, the last one wins, as in torch: whoever reads the output must see them.
template <class V> inline auto beats(V z, V best) { return (z > best) | (z != z); }

template <class V, class T> inline V activate(V z, bool relu) { return relu ? (z < T(0) ? V{} : z) : z; }

template <class V, class T>
inline void affine_run(const T* y, T* out, T scale, T shift, bool relu, int64_t from, int64_t to) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  for (int64_t j = from; j < to; j += lanes) store<V>(out + j, activate<V, T>(load<V>(y + j) * scale + shift, relu));
}

template <class V, class T>
inline void pool_run(const T* y, int64_t pitch, int64_t n, T* out, T scale, T shift, bool relu, int64_t from,
                     int64_t to) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  for (int64_t j = from; j < to; j += lanes) {
    V best = load<V>(y + j) * scale + shift;
    for (const T* q : {y + n + j, y + pitch + j, y + pitch + n + j}) {
      const V z = load<V>(q) * scale + shift;
      best = beats<V>(z, best) ? z : best;
    }
    store<V>(out + j, activate<V, T>(best, relu));
  }
}

// sums: of y's channels, null where nobody has taken them.
template <class T> void activate_row(const Block& b, int64_t r, const T* y, T* out, const ChannelSums<T>* sums) {
  const int64_t h = b.height, w = b.width, n = b.samples, plane = h * w * n, pitch = w * n;
  const int64_t ph = h / 2, pw = w / 2, whole = n / kLanes<T> * kLanes<T>;
  for (int64_t c = 0; c < b.out_channels; ++c, y += plane) {
    T scale = 1, shift = 0;
    if (b.norm) {
      const int64_t rc = r * b.out_channels + c;
      T mean, variance;
      T &running_mean = ((T*)b.running_mean)[rc], &running_var = ((T*)b.running_var)[rc];
      if (b.training) {
        if (sums) moments_of<T>(sums[c], plane, mean, variance);
        else moments<T>(y, plane, mean, variance);
        const T unbiased = variance * plane / std::max<int64_t>(1, plane - 1);
        running_mean = b.momentum * mean + (1 - b.momentum) * running_mean;
        running_var = b.momentum * unbiased + (1 - b.momentum) * running_var;
      } else {
        mean = running_mean;
        variance = running_var;
      }
      const T invstd = 1 / std::sqrt(variance + T(b.eps));
      ((T*)b.mean)[rc] = mean;
      ((T*)b.invstd)[rc] = invstd;
      scale = ((const T*)b.gamma)[rc] * invstd;
      shift = ((const T*)b.beta)[rc] - mean * scale;
    }
    if (!b.pool) {
      const int64_t full = plane / kLanes<T> * kLanes<T>;
      affine_run<Vec<T>, T>(y, out, scale, shift, b.relu, 0, full);
      affine_run<T, T>(y, out, scale, shift, b.relu, full, plane);
      out += plane;
      continue;
    }
    for (int64_t row = 0; row < ph; ++row)
      for (int64_t col = 0; col < pw; ++col, out += n) {
        const T* q = y + 2 * row * pitch + 2 * col * n;
        pool_run<Vec<T>, T>(q, pitch, n, out, scale, shift, b.relu, 0, whole);
        pool_run<T, T>(q, pitch, n, out, scale, shift, b.relu, whole, n);
      }
  }
}

// One channel's batch norm on the way forward.
template <class T> struct Affine {
  T scale = 1, shift = 0, mean = 0;
};

// The gradient of one vector of outputs before ReLU and pooling. Of its Q inputs, the largest gets it: the first that
// holds the maximum, as in torch.
template <class V, class T, int Q> struct Gated {
  V winner = {}, winners_y, gradient, nothing = {};  // `nothing` times a number: NaN where a loser is not finite

  Gated(const T* y, const T* go, const int64_t* offset, const Affine<T>& a, bool relu)
      : winners_y(load<V>(y)), gradient(load<V>(go)) {
    V best = winners_y * a.scale + a.shift;
    for (int q = 1; q < Q; ++q) {
      const V other = load<V>(y + offset[q]), z = other * a.scale + a.shift;
      const auto wins = beats<V>(z, best);
      best = wins ? z : best;
      winner = wins ? V{} + T(q) : winner;
      winners_y = wins ? other : winners_y;
      nothing += other * T(0);
    }
    if (relu) gradient = best <= T(0) ? V{} : gradient;
  }

  void spread(T* g, const int64_t* offset) const {
    for (int q = 0; q < Q; ++q) store<V>(g + offset[q], Q == 1 || winner == T(q) ? gradient : V{});
  }
};

// All vectors of a channel's outputs, then what is left of them sample by sample: visit(V{}, where its inputs and it are).
template <class T, class Visit> inline void every_output(const Block& b, Visit visit) {
  const int64_t n = b.samples, pitch = b.width * n, plane = b.height * pitch, columns = b.pool ? b.width / 2 : 1;
  const int64_t runs = b.pool ? b.height / 2 * columns : 1, length = b.pool ? n : plane;
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t from = 2 * (run / columns * pitch + run % columns * n);
    int64_t j = 0;
    for (; j + kLanes<T> <= length; j += kLanes<T>) visit(Vec<T>{}, from + j, run * n + j);
    for (; j < length; ++j) visit(T{}, from + j, run * n + j);
  }
}

// What no window covers, at an odd last row and column, gets no gradient through pooling.
template <class T> void clear_uncovered(const Block& b, T* g) {
  const int64_t h = b.height, w = b.width, n = b.samples, pitch = w * n;
  if (h % 2) std::memset(g + (h - 1) * pitch, 0, pitch * sizeof(T));
  for (int64_t row = 0; w % 2 && row < h; ++row) std::memset(g + row * pitch + (w - 1) * n, 0, n * sizeof(T));
}

template <class T, int Q> void activate_row_backward(const Block& b, int64_t r, const T* y, const T* go, T* g) {
  const int64_t h = b.height, w = b.width, n = b.samples, pitch = w * n, plane = h * pitch;
  const int64_t out_plane = Q == 1 ? plane : (h / 2) * (w / 2) * n;
  const int64_t offset[4] = {0, n, pitch, pitch + n};
  const bool relu = b.relu, spreads = Q > 1 || !b.norm, follows = b.training;
  for (int64_t c = 0; c < b.out_channels; ++c, y += plane, g += plane, go += out_plane) {
    const int64_t rc = r * b.out_channels + c;
    Affine<T> a;
    T invstd = 1;
    if (b.norm) {
      invstd = ((const T*)b.invstd)[rc];
      a.mean = ((const T*)b.mean)[rc];
      a.scale = ((const T*)b.gamma)[rc] * invstd;
      a.shift = ((const T*)b.beta)[rc] - a.mean * a.scale;
    }
    ChannelSums<T> sums;
    if (Q > 1) clear_uncovered<T>(b, g);
    every_output<T>(b, [=, &sums](auto kind, int64_t in, int64_t out) {
      using V = decltype(kind);
      const Gated<V, T, Q> gated(y + in, go + out, offset, a, relu);
      if (spreads) gated.spread(g + in, offset);
      add_to<T>(sums, gated.gradient, gated.gradient * (gated.winners_y - a.mean) + (follows ? V{} : gated.nothing));
    });
    if (!b.norm) continue;
    const T sum = lane_sum<T>(sums.first) + sums.first_rest, product = lane_sum<T>(sums.second) + sums.second_rest;
    ((T*)b.grad_beta)[rc] = sum;
    ((T*)b.grad_gamma)[rc] = product * invstd;
    // In training the statistics depend on the input too; else it is not even read, since nothing times NaN is NaN.
    const T slope = product / plane * invstd * invstd, offset_all = sum / plane;
    const auto through_norm = [=](auto kind, int64_t j) {
      using V = decltype(kind);
      V gv;
      if constexpr (Q == 1) gv = Gated<V, T, Q>(y + j, go + j, offset, a, relu).gradient;
      else gv = load<V>(g + j);
      if (follows) gv = gv - (load<V>(y + j) - a.mean) * slope - offset_all;
      store<V>(g + j, gv * a.scale);
    };
    int64_t j = 0;
    for (; j + kLanes<T> <= plane; j += kLanes<T>) through_norm(Vec<T>{}, j);
    for (; j < plane; ++j) through_norm(T{}, j);
  }
}

// ---- whole blocks ----------------------------------------------------------------------------------------------

template <class T> void block_forward(const Block& b) {
  const int64_t plane = b.height * b.width * b.samples, taps = b.kernel * b.kernel;
  const int64_t y_size = b.out_channels * plane;
  const int64_t out_size = b.pool ? b.out_channels * (b.height / 2) * (b.width / 2) * b.samples : y_size;
  const int64_t w_size = b.out_channels * (b.depthwise ? 1 : b.in_channels) * taps;
  const bool plain = !(b.norm || b.relu || b.pool), counts = b.kernel && b.norm && b.training;
#pragma omp parallel num_threads(b.threads)
  {
    static thread_local Scratch<T> packed, scratch;
    static thread_local Scratch<ChannelSums<T>> kept;
    ChannelSums<T>* sums = counts ? kept.get(b.out_channels) : nullptr;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < b.rows; ++r) {
      const T* x = (const T*)b.x + r * b.x_row_stride;
      T* out = (T*)b.out + r * out_size;
      const T* y = x;
      if (b.kernel) {
        T* target = plain ? out : b.y ? (T*)b.y + r * y_size : scratch.get(y_size);
        conv_row<T>(b, x, (const T*)b.weight + r * w_size, b.bias ? (const T*)b.bias + r * b.out_channels : nullptr,
                    target, packed, sums);
        y = target;
      }
      if (!plain) activate_row<T>(b, r, y, out, sums);
    }
  }
}

template <class T> void block_backward(const Block& b) {
  const int64_t plane = b.height * b.width * b.samples, taps = b.kernel * b.kernel;
  const int64_t x_size = b.in_channels * plane, y_size = b.out_channels * plane;
  const int64_t out_size = b.pool ? b.out_channels * (b.height / 2) * (b.width / 2) * b.samples : y_size;
  const int64_t w_size = b.out_channels * (b.depthwise ? 1 : b.in_channels) * taps;
  const bool plain = !(b.norm || b.relu || b.pool);
#pragma omp parallel num_threads(b.threads)
  {
    static thread_local Scratch<T> packed, scratch;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < b.rows; ++r) {
      const T* x = (const T*)b.x + r * b.x_row_stride;
      const T* g = (const T*)b.grad_out + r * out_size;
      T* gx = b.grad_x ? (T*)b.grad_x + r * x_size : nullptr;
      if (!plain) {
        T* target = b.kernel || !gx ? scratch.get(y_size) : gx;
        const T* y = b.kernel ? (const T*)b.y + r * y_size : x;
        if (b.pool) activate_row_backward<T, 4>(b, r, y, g, target);
        else activate_row_backward<T, 1>(b, r, y, g, target);
        g = target;
      }
      if (b.kernel)
        conv_row_backward<T>(b, x, (const T*)b.weight + r * w_size, g, gx, (T*)b.grad_weight + r * w_size,
                             b.grad_bias ? (T*)b.grad_bias + r * b.out_channels : nullptr, packed);
    }
  }
}

// ---- seeds -----------------------------------------------------------------------------------------------------

// out = x + delta / sqrt(1 + |delta|^2 / (max_ratio^2 |x|^2 + eps)), norms per sample.
template <class V, class T> void bound_lanes(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *d = (const T*)p.delta + base;
  T *out = (T*)p.out + base, *kept = (T*)p.kept + r * 2 * n + s;
  V xx = {}, dd = {};
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V xv = load<V>(x + j), dv = load<V>(d + j);
    xx += xv * xv;
    dd += dv * dv;
  }
  const V limit = xx * T(p.max_ratio * p.max_ratio) + T(p.eps), q = dd / limit;
  const V scale = inverse_root<T>(1 + q);
  for (int64_t j = 0; j < p.size * n; j += n) store<V>(out + j, load<V>(x + j) + load<V>(d + j) * scale);
  store<V>(kept, scale);
  store<V>(kept + n, limit);
}

template <class V, class T> void bound_lanes_backward(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *d = (const T*)p.delta + base, *g = (const T*)p.grad_out + base;
  const T* kept = (const T*)p.kept + r * 2 * n + s;
  T *gx = (T*)p.grad_x + base, *gd = (T*)p.grad_delta + base;
  const V scale = load<V>(kept), limit = load<V>(kept + n);
  V along = {}, dd = {};
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V dv = load<V>(d + j);
    along += load<V>(g + j) * dv;
    dd += dv * dv;
  }
  const V slope = along * scale * scale * scale / limit;
  const V inward = slope * dd * T(p.max_ratio * p.max_ratio) / limit;
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V gv = load<V>(g + j);
    store<V>(gd + j, gv * scale - load<V>(d + j) * slope);
    store<V>(gx + j, gv + load<V>(x + j) * inward);
  }
}

// out = x + alpha (delta - x), delta being the seed's output; rows that are not finite give x.
template <class V, class T> void blend_lanes(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *seed = (const T*)p.delta + base;
  T* out = (T*)p.out + base;
  V alpha = V{} + ((const T*)p.alpha)[p.alpha_per_sample ? 0 : r];
  if (p.alpha_per_sample) alpha = load<V>((const T*)p.alpha + r * n + s);
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V xv = load<V>(x + j);
    store<V>(out + j, xv + alpha * (load<V>(seed + j) - xv));
  }
}

template <class V, class T> void blend_lanes_backward(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *seed = (const T*)p.delta + base, *g = (const T*)p.grad_out + base;
  T *gx = (T*)p.grad_x + base, *gs = (T*)p.grad_delta + base;
  V alpha = V{} + ((const T*)p.alpha)[p.alpha_per_sample ? 0 : r], along = {};
  if (p.alpha_per_sample) alpha = load<V>((const T*)p.alpha + r * n + s);
  const V seedward = alpha + ((const T*)p.straight_through)[r];
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V gv = load<V>(g + j);
    store<V>(gx + j, gv * (T(1) - alpha));
    store<V>(gs + j, gv * seedward);
    if (p.grad_alpha) along += gv * (load<V>(seed + j) - load<V>(x + j));
  }
  if (p.grad_alpha) store<V>((T*)p.grad_alpha + r * n + s, along);
}

template <class T> bool row_is_finite(const T* p, int64_t count) {
  Vec<T> nothing = {};  // x * 0 is 0 for a finite x, NaN otherwise
  T rest = 0;
  int64_t j = 0;
  for (; j + kLanes<T> <= count; j += kLanes<T>) nothing += load<Vec<T>>(p + j) * T(0);
  for (; j < count; ++j) rest += p[j] * T(0);
  return lane_sum<T>(nothing) + rest == 0;
}

template <class T, void (*wide)(const Seed&, int64_t, int64_t), void (*narrow)(const Seed&, int64_t, int64_t)>
void every_lane(const Seed& p, int64_t r) {
  int64_t s = 0;
  for (; s + kLanes<T> <= p.samples; s += kLanes<T>) wide(p, r, s);
  for (; s < p.samples; ++s) narrow(p, r, s);
}

template <class T> void bound_forward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) every_lane<T, bound_lanes<Vec<T>, T>, bound_lanes<T, T>>(p, r);
}

template <class T> void bound_backward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) every_lane<T, bound_lanes_backward<Vec<T>, T>, bound_lanes_backward<T, T>>(p, r);
}

template <class T> void blend_forward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t count = p.size * p.samples;
    T& is_finite = ((T*)p.is_finite)[r];
    is_finite = row_is_finite((const T*)p.delta + r * count, count);
    if (is_finite) every_lane<T, blend_lanes<Vec<T>, T>, blend_lanes<T, T>>(p, r);
    else std::memcpy((T*)p.out + r * count, (const T*)p.x + r * count, count * sizeof(T));
  }
}

template <class T> void blend_backward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t count = p.size * p.samples;
    if (((const T*)p.is_finite)[r]) {
      every_lane<T, blend_lanes_backward<Vec<T>, T>, blend_lanes_backward<T, T>>(p, r);
      continue;
    }
    std::memcpy((T*)p.grad_x + r * count, (const T*)p.grad_out + r * count, count * sizeof(T));
    std::memset((T*)p.grad_delta + r * count, 0, count * sizeof(T));
    if (p.grad_alpha) std::memset((T*)p.grad_alpha + r * p.samples, 0, p.samples * sizeof(T));
  }
}

#define ESPER_KERNEL(name, Arguments)                                   \
  void name##_f32(const Arguments* arguments) { name<float>(*arguments); } \
  void name##_f64(const Arguments* arguments) { name<double>(*arguments); }

extern "C" {
const char* block_fields() { return BLOCK_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
const char* seed_fields() { return SEED_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
int64_t block_bytes() { return sizeof(Block); }
int64_t seed_bytes() { return sizeof(Seed); }
ESPER_KERNEL(block_forward, Block)
ESPER_KERNEL(block_backward, Block)
ESPER_KERNEL(bound_forward, Seed)
ESPER_KERNEL(bound_backward, Seed)
ESPER_KERNEL(blend_forward, Seed)
ESPER_KERNEL(blend_backward, Seed)
}

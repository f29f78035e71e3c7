// Convolutions of one network and their gradients: 1x1 or 3x3, stride 1, 'same'; samples innermost.
#pragma once
#include <algorithm>

#include "vectors.h"

// Output channels [0, OB) at one position and NV vectors of samples; k: 1 or 3. sums: of each channel, null where not
// wanted.
template <class V, class T, int OB, int NV, int k>
inline void conv_tile(const T* x, const T* w, const T* bias, T* out, int64_t in, int64_t h, int64_t wd, int64_t n,
                      int64_t row, int64_t col, ChannelSums<T>* sums) {
  constexpr int lanes = sizeof(V) / sizeof(T), p = k / 2;
  const int ky0 = k == 1 ? 0 : std::max<int64_t>(0, p - row), ky1 = k == 1 ? 1 : std::min<int64_t>(k, h + p - row);
  const int kx0 = k == 1 ? 0 : std::max<int64_t>(0, p - col), kx1 = k == 1 ? 1 : std::min<int64_t>(k, wd + p - col);
  // What the next position writes left the caches a step ago: it is fetched while this one computes.
  for (int o = 0; o < OB; ++o)
    for (int v = 0; v < NV; ++v) __builtin_prefetch(out + (o * h * wd + row * wd + col + 1) * n + v * lanes, 1);
  V acc[OB][NV];
  for (int o = 0; o < OB; ++o)
    for (int v = 0; v < NV; ++v) acc[o][v] = V{} + (bias ? bias[o] : T(0));
  for (int64_t i = 0; i < in; ++i)
    for (int ky = ky0; ky < ky1; ++ky) {
      const T* xp = x + ((i * h + row + ky - p) * wd + col + kx0 - p) * n;
      const T* wp = w + ((i * k + ky) * k + kx0) * OB;
      for (int kx = kx0; kx < kx1; ++kx, xp += n, wp += OB) {
        V xv[NV];
        for (int v = 0; v < NV; ++v) xv[v] = held(load<V>(xp + v * lanes));
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

template <class T, int k> struct Convolution {
  static constexpr int kStep = 1;

  const T *x, *w, *bias;
  T* out;
  int64_t in, outc, h, wd, n;

  // The samples that one pass takes from `s` on.
  int64_t span(int64_t s) const {
    const int64_t left = n - s;
    return left >= 4 * kLanes<T> ? 4 * kLanes<T> : left >= kLanes<T> ? kLanes<T> : 1;
  }

  template <int OB> void channels(int64_t o, int64_t row, int64_t col, int64_t s, ChannelSums<T>* sums) const {
    const T *from = x + s, *packed = w + o * in * k * k, *start = bias ? bias + o : nullptr;
    T* to = out + o * h * wd * n + s;
    ChannelSums<T>* own = sums ? sums + o : nullptr;
    if (span(s) == 4 * kLanes<T>) conv_tile<Vec<T>, T, OB, 4, k>(from, packed, start, to, in, h, wd, n, row, col, own);
    else if (span(s) == kLanes<T>) conv_tile<Vec<T>, T, OB, 1, k>(from, packed, start, to, in, h, wd, n, row, col, own);
    else conv_tile<T, T, OB, 1, k>(from, packed, start, to, in, h, wd, n, row, col, own);
  }

  // Channels are taken kChannelTile at a time, then 2, then 1; `w` is packed by pack() in the same order.
  void position(int64_t row, int64_t col, int64_t s, ChannelSums<T>* sums) const {
    int64_t o = 0;
    for (; o + kChannelTile <= outc; o += kChannelTile) channels<kChannelTile>(o, row, col, s, sums);
    for (; o + 2 <= outc; o += 2) channels<2>(o, row, col, s, sums);
    for (; o < outc; ++o) channels<1>(o, row, col, s, sums);
  }
};

// All positions of a convolution of either kind. sums: of each output channel, null where not wanted.
template <class T, class Way> void run(const Way& way, ChannelSums<T>* sums) {
  const int64_t h = way.h, wd = way.wd, n = way.n;
  if (sums) {
    const int64_t row = h / 2 / Way::kStep * Way::kStep, col = wd / 2 / Way::kStep * Way::kStep;
    way.position(row, col, 0, nullptr);
    for (int64_t o = 0; o < way.outc; ++o) {
      const T* centre = way.out + ((o * h + row) * wd + col) * n;
      sums[o] = {};
      for (int64_t s = 0; s < way.span(0); ++s) sums[o].shift += centre[s] / way.span(0);
    }
  }
  for (int64_t s = 0; s < n; s += way.span(s))
    for (int64_t row = 0; row < h; row += Way::kStep)
      for (int64_t col = 0; col < wd; col += Way::kStep) way.position(row, col, s, sums);
}

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
        for (int i = 0; i < IB; ++i) xv[t][i] = held(load<Vec<T>>(x + i * plane + t * n + l + u * lanes));
      for (int o = 0; o < OB; ++o) {
        const Vec<T> gv = held(load<Vec<T>>(g + o * plane + l + u * lanes));
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

// From this width on, what two taps at a row's ends cost by themselves is less than what three at once save.
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

// Batch norm, ReLU and 2x2 max pooling of one network, forward and back; any may be missing.
#pragma once
#include <algorithm>

#include "arguments.h"
#include "vectors.h"

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

struct Block { BLOCK_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };

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

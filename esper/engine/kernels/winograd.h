// 3x3 convolution with 16 products where direct convolution takes 36: F(2x2, 3x3) of Lavin and Gray 2016
// (https://arxiv.org/abs/1509.09308). Four by four inputs give two by two outputs; in between, each of the 16 places is
// a 1x1 convolution by itself. In float32 the sums differ from direct ones by rounding; double precision stays direct.
// What is not finite spreads over its tile.
#pragma once
#include <type_traits>

#include "convolution.h"

// The two of four: what input and output are multiplied by along one axis.
template <class V> inline void winograd_input(const V* d, V* t, int step) {
  t[0] = d[0] - d[2 * step];
  t[step] = d[step] + d[2 * step];
  t[2 * step] = d[2 * step] - d[step];
  t[3 * step] = d[step] - d[3 * step];
}

template <class T> struct Winograd {
  static constexpr int kStep = 2;
  static constexpr int64_t kBlock = 16;  // output channels whose 16 places are kept until they are added up

  const T *x, *bias;
  T* out;
  int64_t in, outc, h, wd, n;
  T *weights, *inputs, *products;

  // Where it is exact enough, covers the plane, and saves more time in products than additions and moves cost.
  static bool pays(int64_t in, int64_t outc, int64_t h, int64_t wd, int64_t n, int k) {
    return std::is_same<T, float>::value && k == 3 && in >= 16 && outc >= 16 && in * outc >= 512 && h % 2 == 0 &&
           wd % 2 == 0 && n % kLanes<T> == 0;
  }

  // From one place to the next, so that all of them do not fall into the same few lines of a cache.
  static int64_t pitch(int64_t channels) { return (4 * channels + 1) * kLanes<T>; }

  static int64_t scratch(int64_t in, int64_t outc) {
    return 2 * 16 * in * outc + 16 * (pitch(in) + pitch(kBlock));
  }

  // memory: of `scratch` values. w, flip: as in pack().
  Winograd(const T* x, const T* w, const T* bias, T* out, int64_t in, int64_t outc, int64_t h, int64_t wd, int64_t n,
           bool flip, T* memory)
      : x(x), bias(bias), out(out), in(in), outc(outc), h(h), wd(wd), n(n), weights(memory),
        inputs(weights + 16 * in * outc), products(inputs + 16 * pitch(in)) {
    T* transformed = products + 16 * pitch(kBlock);  // [16, outc, in]
    const int64_t count = in * outc;
    for (int64_t o = 0; o < outc; ++o)
      for (int64_t i = 0; i < in; ++i) {
        T g[9], t[12];
        for (int tap = 0; tap < 9; ++tap) g[tap] = flip ? w[(i * outc + o) * 9 + 8 - tap] : w[(o * in + i) * 9 + tap];
        for (int c = 0; c < 3; ++c) {
          const T sum = (g[c] + g[6 + c]) / 2, middle = g[3 + c] / 2;
          t[c] = g[c], t[3 + c] = sum + middle, t[6 + c] = sum - middle, t[9 + c] = g[6 + c];
        }
        for (int r = 0; r < 4; ++r) {
          const T sum = (t[3 * r] + t[3 * r + 2]) / 2, middle = t[3 * r + 1] / 2;
          const T row[4] = {t[3 * r], sum + middle, sum - middle, t[3 * r + 2]};
          for (int c = 0; c < 4; ++c) transformed[(4 * r + c) * count + o * in + i] = row[c];
        }
      }
    for (int p = 0; p < 16; ++p) pack<T>(transformed + p * count, weights + p * count, outc, in, 1, false);
  }

  int64_t span(int64_t s) const { return n - s >= 4 * kLanes<T> ? 4 * kLanes<T> : kLanes<T>; }

  // Two rows and two columns of outputs.
  void position(int64_t row, int64_t col, int64_t s, ChannelSums<T>* sums) const {
    const int64_t width = span(s);
    for (int64_t i = 0; i < in; ++i)
      for (int64_t v = 0; v < width; v += kLanes<T>) input_tile(i, row, col, s + v, inputs + i * width + v, pitch(in));
    for (int64_t o = 0; o < outc; o += kBlock) {
      const int64_t channels = std::min(kBlock, outc - o);
      for (int64_t p = 0; p < 16; ++p)
        Convolution<T, 1>{inputs + p * pitch(in), weights + (p * outc + o) * in, nullptr, products + p * pitch(kBlock),
                          in, channels, 1, 1, width}
            .position(0, 0, 0, nullptr);
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t v = 0; v < width; v += kLanes<T>)
          output_tile(o + c, row, col, s + v, products + c * width + v, pitch(kBlock), sums ? sums + o + c : nullptr);
    }
  }

 private:
  // The 16 places of channel i, `stride` apart from `to` on; nothing is outside of the plane.
  void input_tile(int64_t i, int64_t row, int64_t col, int64_t s, T* to, int64_t stride) const {
    Vec<T> d[16], t[16];
    for (int r = 0; r < 4; ++r)
      for (int c = 0; c < 4; ++c) {
        const int64_t y = row + r - 1, x0 = col + c - 1;
        const bool is_inside = y >= 0 && y < h && x0 >= 0 && x0 < wd;
        d[4 * r + c] = is_inside ? load<Vec<T>>(x + ((i * h + y) * wd + x0) * n + s) : Vec<T>{};
      }
    for (int c = 0; c < 4; ++c) winograd_input(d + c, t + c, 4);
    for (int r = 0; r < 4; ++r) winograd_input(t + 4 * r, d + 4 * r, 1);
    for (int p = 0; p < 16; ++p) store<Vec<T>>(to + p * stride, d[p]);
  }

  void output_tile(int64_t o, int64_t row, int64_t col, int64_t s, const T* from, int64_t stride,
                   ChannelSums<T>* sums) const {
    Vec<T> t[8], first = {}, second = {};
    for (int c = 0; c < 4; ++c) {
      Vec<T> m[4];
      for (int r = 0; r < 4; ++r) m[r] = load<Vec<T>>(from + (4 * r + c) * stride);
      t[c] = m[0] + m[1] + m[2];
      t[4 + c] = m[1] - m[2] - m[3];
    }
    const T start = bias ? bias[o] : T(0), shift = sums ? sums->shift : T(0);
    for (int r = 0; r < 2; ++r) {
      const Vec<T>* m = t + 4 * r;
      const Vec<T> pair[2] = {m[0] + m[1] + m[2] + start, m[1] - m[2] - m[3] + start};
      for (int c = 0; c < 2; ++c) {
        store<Vec<T>>(out + ((o * h + row + r) * wd + col + c) * n + s, pair[c]);
        first += pair[c] - shift;
        second += (pair[c] - shift) * (pair[c] - shift);
      }
    }
    if (sums) add_to<T>(*sums, first, second);
  }
};

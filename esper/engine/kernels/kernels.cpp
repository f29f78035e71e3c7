// Training kernels for many small convolutional networks on a CPU.
//
// An activation is [R, C, H, W, N]: R networks ("rows"), N samples innermost, so that every vector lane is one sample,
// no convolution needs a shuffle and borders are a matter of loop bounds. One thread owns one row at a time: its
// convolution output is still in the second-level cache when normalisation, ReLU and pooling pass over it. Results
// do not depend on the number of threads.
//
// A block is: convolution (1x1 or 3x3, stride 1, 'same'; dense or depthwise), batch norm, ReLU, 2x2 max pooling; any
// part may be missing. Vectors [R, C, N] have layer norm and ReLU.
#include "activation.h"
#include "convolution.h"
#include "layer_norm.h"
#include "seed.h"
#include "winograd.h"

// w, flip: as in pack(). sums: of each output channel, null where not wanted.
template <class T>
void conv(const T* x, const T* w, const T* bias, T* out, int64_t in, int64_t outc, const Block& b, bool flip,
          Scratch<T>& memory, ChannelSums<T>* sums) {
  const int k = b.kernel;
  if (Winograd<T>::pays(in, outc, b.height, b.width, b.samples, k)) {
    T* scratch = memory.get(Winograd<T>::scratch(in, outc));
    run<T>(Winograd<T>(x, w, bias, out, in, outc, b.height, b.width, b.samples, flip, scratch), sums);
    return;
  }
  T* packed = memory.get(in * outc * k * k);
  pack<T>(w, packed, flip ? in : outc, flip ? outc : in, k, flip);
  if (k == 1) run<T>(Convolution<T, 1>{x, packed, bias, out, in, outc, b.height, b.width, b.samples}, sums);
  else run<T>(Convolution<T, 3>{x, packed, bias, out, in, outc, b.height, b.width, b.samples}, sums);
}

template <class T>
void conv_row(const Block& b, const T* x, const T* w, const T* bias, T* y, Scratch<T>& memory, ChannelSums<T>* sums) {
  const int64_t plane = b.height * b.width * b.samples, taps = b.kernel * b.kernel;
  if (!b.depthwise) return conv<T>(x, w, bias, y, b.in_channels, b.out_channels, b, false, memory, sums);
  for (int64_t c = 0; c < b.out_channels; ++c)
    conv<T>(x + c * plane, w + c * taps, bias ? bias + c : nullptr, y + c * plane, 1, 1, b, false, memory,
            sums ? sums + c : nullptr);
}

template <class T>
void conv_row_backward(const Block& b, const T* x, const T* w, const T* g, T* gx, T* gw, T* gb, Scratch<T>& memory) {
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
  if (!b.depthwise) {
    conv_grad_weight<T>(g, x, gw, b.out_channels, b.in_channels, h, wd, n, k);
    if (gx) conv<T>(g, w, nullptr, gx, b.out_channels, b.in_channels, b, true, memory, nullptr);
    return;
  }
  for (int64_t c = 0; c < b.out_channels; ++c) {
    conv_grad_weight<T>(g + c * plane, x + c * plane, gw + c * k * k, 1, 1, h, wd, n, k);
    if (gx) conv<T>(g + c * plane, w + c * k * k, nullptr, gx + c * plane, 1, 1, b, true, memory, nullptr);
  }
}

template <class T> void block_forward(const Block& b) {
  const int64_t plane = b.height * b.width * b.samples, taps = b.kernel * b.kernel;
  const int64_t y_size = b.out_channels * plane;
  const int64_t out_size = b.pool ? b.out_channels * (b.height / 2) * (b.width / 2) * b.samples : y_size;
  const int64_t w_size = b.out_channels * (b.depthwise ? 1 : b.in_channels) * taps;
  const bool plain = !(b.norm || b.relu || b.pool), counts = b.kernel && b.norm && b.training;
#pragma omp parallel num_threads(b.threads)
  {
    static thread_local Scratch<T> memory, scratch;
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
                    target, memory, sums);
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
    static thread_local Scratch<T> memory, scratch;
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
                             b.grad_bias ? (T*)b.grad_bias + r * b.out_channels : nullptr, memory);
    }
  }
}

#define ESPER_KERNEL(name, Arguments)                                   \
  void name##_f32(const Arguments* arguments) { name<float>(*arguments); } \
  void name##_f64(const Arguments* arguments) { name<double>(*arguments); }

extern "C" {
const char* block_fields() { return BLOCK_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
const char* layernorm_fields() { return LAYERNORM_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
const char* seed_fields() { return SEED_FIELDS(SPELL_INTEGER, SPELL_REAL, SPELL_POINTER); }
int64_t block_bytes() { return sizeof(Block); }
int64_t layernorm_bytes() { return sizeof(LayerNorm); }
int64_t seed_bytes() { return sizeof(Seed); }
ESPER_KERNEL(block_forward, Block)
ESPER_KERNEL(block_backward, Block)
ESPER_KERNEL(layer_norm_forward, LayerNorm)
ESPER_KERNEL(layer_norm_backward, LayerNorm)
ESPER_KERNEL(bound_forward, Seed)
ESPER_KERNEL(bound_backward, Seed)
ESPER_KERNEL(blend_forward, Seed)
ESPER_KERNEL(blend_backward, Seed)
}

"""Everything that a stream codes, as NumPy arrays, and back: for research, and for other programs.

>>> import io, numpy as np
>>> from bsqcodec import arrays_to_stream, encode_image, stream_to_arrays
>>> stream, archive, back = io.BytesIO(encode_image(np.full((48, 64, 3), 90, np.uint8))), io.BytesIO(), io.BytesIO()
>>> stream_to_arrays(stream, archive)
>>> _ = archive.seek(0)
>>> arrays = np.load(archive, allow_pickle=False)
>>> arrays["type"].tolist(), arrays["frame0.coefficients"].shape
(['I'], (3, 4, 768))
>>> arrays_to_stream(archive, back), back.getvalue() == stream.getvalue()
(0, True)

In the archive, R = ceil(height / 16) and C = ceil(width / 16) are rows and columns of tokens, N is the number of
frames. Frames are numbered from 0 in the order of time. Integers may come back in any integer type. Of the stream:

    layout                      int64             1, the version of what is described here
    model                       uint8 (8,)        id of the model
    width, height               int64             of a frame, in pixels
    time_base                   int64 (2,)        numerator, denominator: seconds a unit of time
    frame_rate                  int64 (2,)        the same: frames a second, on average; numerator 0: a still image
    sample_aspect_ratio         int64 (2,)        width and height of a pixel; unknown if either is 0
    bit_depth, alpha            int64             bits a sample; 0: no alpha
    quarter_turns               int64             clockwise, for display, 0..3
    primaries, transfer, matrix int64             ITU-T H.273, 0..255
    color_range                 int64             0 unspecified, 1 limited, 2 full
    last_duration               int64             of the last frame, in units of time; 0: not known
    header_more                 uint8 (n,)        fields of the header behind these
    chunks                      uint8 (n,)        types of all chunks but the last, as ASCII, in the order of the file
    chunk0, chunk1 ..           uint8 (n,)        body of the chunk of this number, unless it is a `G`: sound ...
    index                       int64 (n,)        for each `G` the number of the chunk that the file's index points to;
                                                  or none

Of each frame, in a row:

    pts                         int64 (N,)        presentation time in units of the time base; rises
    group                       int64 (N,)        number of its group of pictures, a `G`, from 0
    type                        <U1 (N,)          I, P or B
    tune                        uint8 (N,)        0 perceptual, 1 psnr; the same in all of a group
    quality                     uint8 (N,)        1..100; of a B frame that of the anchor (I, P) that ends its mini-GOP,
                                                  less the fall for each level, but at least 1
    mini_gop                    uint8 (N, 2)      frames of its mini-GOP, 1..16, with the anchor that ends it; fall of
                                                  quality from level to level of B frames; 0, 0 of a group's first
    references                  int64 (N, 2)      frames that it is predicted from, then -1: of P the anchor before, of
                                                  B none, one or both of those that section 2 of the spec names
    bits                        float64 (N, 2)    cost of the coefficients, and of all else; not read back

Of a frame, here of frame 7; every frame has the first and the last of these:

    frame7.coefficients         int32 (R, C, 768) in quantiser steps, within +-95059; 0 behind those that are coded
    frame7.classes              int8 (R, C)       classes of contrast, -3..3, of a frame without reference
    frame7.modes                uint8 (R, C)      of a frame with two references: 0 their mean, 1 first, 2 second
    frame7.vectors              int16 (n, R, C, 2)
                                                  (dy, dx) of blocks into each of n references, quarter pixels, within
                                                  +-2047; not read back where the mode leaves the reference out
    frame7.quarters             int16 (n, 2R, 2C, 2)
                                                  the same of their quarters; a block is split if they are not all alike
    frame7.steps                float32 (R, C)    quantiser step, in sample values: the gain; not read back

`digits.to_digits` gives the balanced ternary digits of coefficients, each of them two bits of binary spherical
quantisation. Coefficient k of a token weighs column k of the model's `basis`, sections 7 and 10.
"""

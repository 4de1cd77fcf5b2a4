"""CCSDS 123.0-B-2, lossless or near-lossless: each sample is predicted from its neighbors and the preceding bands.

    s --> (-) --> quantizer -- q --> mapping -- delta --> entropy coder --> bits
           ^          |
         s_hat        v
           |     bin center s' --> sample representative s"
           |                                 |
           +---- adaptive linear predictor <-+

"Low-Complexity Lossless and Near-Lossless Multispectral and Hyperspectral Image Compression", CCSDS 123.0-B-2, Blue
Book, issue 2, Consultative Committee for Space Data Systems, 2019; see also Kiely et al., "The New CCSDS Standard for
Low-Complexity Lossless and Near-Lossless Multispectral and Hyperspectral Image Compression", OBPDC 2018.

Written are band-sequential images of the hybrid or the sample-adaptive entropy coder, with one absolute error limit,
register size R = 64, default initial weights, output words of one byte, and the smallest dynamic range D that holds the
samples, since the learning rate of the weights depends on D.

Read are all images of samples of up to 16 bits, with any of the three entropy coders, in any order, with tables and
error limits of all kinds, except those whose tables are kept outside of the image.

The sample-adaptive coder and the predictor gave the same bytes as the verification model of NTNU (Vorhaug et al.,
WHISPERS 2024) for 1,392 random parameter sets and 24 crops of real scenes, and as ESA's implementation of issue 1 on
eight whole scenes, both directions. The hybrid coder was compared with a transcription of that model's hybrid encoder,
whose input were the indices of the predictor here: the same bits for 5,261 random parameter sets (D of 4 or more) in
band-sequential order and 24 crops of real scenes, and as many sets in band-interleaved orders decoded, 1,951 of them
with error limits that change by rows. Of a transcription of its block-adaptive encoder, 4,399 random images were
decoded. Whatever else is read was written from the standard, and compared with a second reading of it in
the tests only.
"""

#define TSM_LEVEL avx512
#define TSM_NAME "avx512"
#define TSM_VECTOR_BYTES 64
#include "cpu/level/level.inl"

#define TSM_LEVEL avx512vnni
#define TSM_VECTOR_BYTES 64
#include "cpu/level/word_dots.inl"

namespace tsm::avx512vnni {
extern const WordPanel kWordPanel;
const WordPanel kWordPanel = word_panel;
}  // namespace tsm::avx512vnni

// An error of a kind whose message mentions something.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/error.h"

namespace gemma4 {

inline void expect_error(ErrorKind kind, const std::string& mention, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error; expected one about " << mention;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    EXPECT_NE(std::string(e.what()).find(mention), std::string::npos) << e.what();
  }
}

}  // namespace gemma4

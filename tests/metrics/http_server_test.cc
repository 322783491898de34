#include "server/metrics/http_server.h"

#include <atomic>

#include <httplib.h>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

class HttpServerTest : public testing::Test {
 protected:
  HttpServer::Options Options(std::string address = "127.0.0.1:0") {
    HttpServer::Options options;
    options.address = std::move(address);
    options.metrics = [] { return std::string("attune_x 1\n"); };
    options.ready = [this] { return ready_.load(); };
    return options;
  }
  std::atomic<bool> ready_{true};
};

TEST_F(HttpServerTest, ServesMetricsHealthAndReadiness) {
  auto server = HttpServer::Start(Options());
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("127.0.0.1", (*server)->port());
  auto metrics = client.Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_EQ(metrics->status, 200);
  EXPECT_EQ(metrics->body, "attune_x 1\n");
  EXPECT_EQ(metrics->get_header_value("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  ready_ = false;
  EXPECT_EQ(client.Get("/readyz")->status, 503);
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client.Get("/else")->status, 404);
}

TEST_F(HttpServerTest, RefusesATakenPort) {
  auto first = HttpServer::Start(Options());
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = HttpServer::Start(Options(absl::StrCat("127.0.0.1:", (*first)->port())));
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(GetErrorDetails(second.status()).reason, "LISTEN_FAILED");
}

TEST_F(HttpServerTest, RefusesABadAddress) {
  for (const char* address : {"", "localhost", ":1", "127.0.0.1:x", "127.0.0.1:70000"}) {
    auto server = HttpServer::Start(Options(address));
    ASSERT_FALSE(server.ok()) << address;
    EXPECT_EQ(GetErrorDetails(server.status()).reason, "BAD_ADDRESS") << address;
  }
}

TEST_F(HttpServerTest, StopsAtOnceEvenWithAnOpenConnection) {
  auto server = HttpServer::Start(Options());
  ASSERT_TRUE(server.ok());
  httplib::Client client("127.0.0.1", (*server)->port());
  client.set_keep_alive(true);
  ASSERT_TRUE(client.Get("/healthz"));
  int port = (*server)->port();
  server->reset();
  EXPECT_FALSE(httplib::Client("127.0.0.1", port).Get("/healthz"));
}

}  // namespace
}  // namespace attune

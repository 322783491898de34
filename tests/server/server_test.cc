#include "server/server.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <httplib.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "attune/v1/model_service.grpc.pb.h"
#include "attune/v1/tuning_service.grpc.pb.h"
#include "common/error.h"
#include "common/log.h"
#include "common/status.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::HasSubstr;

// grpc.health.v1's answers as bytes: field 1 is the status, 1 is SERVING and 2 NOT_SERVING.
constexpr char kServing[] = "\x08\x01";

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() { SetLogLevel(LogLevel::kError); }

  ServerOptions Options() {
    ServerOptions options;
    options.data_dir = folder_.File("data");
    options.listen = "127.0.0.1:0";
    options.http_listen = "127.0.0.1:0";
    options.device = "cpu";
    options.kv_tokens = 1024;
    return options;
  }
  std::unique_ptr<Server> MustStart() {
    auto server = Server::Start(Options());
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  static std::shared_ptr<grpc::Channel> Channel(const Server& server) {
    return grpc::CreateChannel(absl::StrCat("127.0.0.1:", server.grpc_port()), grpc::InsecureChannelCredentials());
  }
  // The raw answer of a unary method that is in none of our protos.
  static std::string CallRaw(const Server& server, const std::string& method, const std::string& request) {
    grpc::GenericStub stub(Channel(server));
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::Slice slice(request);
    auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    if (!status.ok()) return status.error_message();
    grpc::Slice flat;
    response.DumpToSingleSlice(&flat).ok();
    return std::string(reinterpret_cast<const char*>(flat.begin()), flat.size());
  }

  TempFolder folder_;
};

TEST_F(ServerTest, ServesHealthMetricsAndReflectionAndStops) {
  std::unique_ptr<Server> server = MustStart();
  httplib::Client http("127.0.0.1", server->http_port());
  EXPECT_EQ(http.Get("/readyz")->status, 200);
  EXPECT_EQ(http.Get("/healthz")->status, 200);
  std::string metrics = http.Get("/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("attune_build_info{"));
  EXPECT_THAT(metrics, HasSubstr("attune_num_requests_running 0\n"));
  EXPECT_THAT(metrics, testing::ContainsRegex("attune_jobs.*QUEUED"));
  EXPECT_EQ(CallRaw(*server, "/grpc.health.v1.Health/Check", ""), kServing);
  EXPECT_EQ(CallRaw(*server, "/grpc.health.v1.Health/Check", "\x0a\x17" "attune.v1.TuningService"), kServing);
  // Reflection: list_services (field 7) names ours.
  EXPECT_THAT(CallRaw(*server, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "\x3a\x01*"),
              HasSubstr("attune.v1.GenerationService"));

  const int port = server->http_port();
  server->Shutdown(absl::Seconds(1));
  server->Shutdown(absl::Seconds(1));
  EXPECT_FALSE(httplib::Client("127.0.0.1", port).Get("/healthz"));
}

TEST_F(ServerTest, TwoServersNeverShareADataDirectory) {
  std::unique_ptr<Server> server = MustStart();
  auto second = Server::Start(Options());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(GetErrorDetails(second.status()).reason, "DATA_DIR_LOCKED");
  server.reset();
  EXPECT_TRUE(Server::Start(Options()).ok());
}

TEST_F(ServerTest, RefusesATakenAddress) {
  std::unique_ptr<Server> server = MustStart();
  ServerOptions options = Options();
  options.data_dir = folder_.File("other");
  options.listen = absl::StrCat("127.0.0.1:", server->grpc_port());
  auto second = Server::Start(options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(GetErrorDetails(second.status()).reason, "LISTEN_FAILED");
}

TEST_F(ServerTest, AnswersCallsAndKeepsWhatItWasTold) {
  const auto list = [](const Server& server) {
    auto stub = v1::ModelService::NewStub(Channel(server));
    v1::ListModelsResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(stub->ListModels(&context, v1::ListModelsRequest(), &response).ok());
    return response.models_size();
  };
  std::unique_ptr<Server> server = MustStart();
  EXPECT_EQ(list(*server), 0);
  auto stub = v1::ModelService::NewStub(Channel(*server));
  v1::ImportModelRequest request;
  request.set_source_path("/etc/hostname");
  v1::Model model;
  grpc::ClientContext context;
  grpc::Status status = stub->ImportModel(&context, request, &model);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(GetErrorDetails(FromGrpcStatus(status)).reason, "OUTSIDE_IMPORT_ROOT");
  server.reset();
  server = MustStart();
  EXPECT_EQ(list(*server), 0);
}

}  // namespace
}  // namespace attune

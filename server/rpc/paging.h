#ifndef ATTUNE_SERVER_RPC_PAGING_H_
#define ATTUNE_SERVER_RPC_PAGING_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/error.h"
#include "common/page_token.h"

namespace attune {

// One page of a listing. `list(limit, before_position)` returns items with a member
// `position`, newest first. `scope` names the collection and its filters, so that a
// token of another listing is refused. Sets `next_page_token`; empty at the end.
template <typename Request, typename List>
auto ListPage(absl::string_view scope, const Request& request, const List& list, std::string* next_page_token)
    -> decltype(list(0, int64_t{0})) {
  ATTUNE_ASSIGN_OR_RETURN(const int size, PageSize(request.page_size()));
  ATTUNE_ASSIGN_OR_RETURN(const int64_t before, DecodePageToken(scope, request.page_token()));
  // One more than asked for tells whether there is another page.
  ATTUNE_ASSIGN_OR_RETURN(auto items, list(size + 1, before));
  if (items.size() > static_cast<size_t>(size)) {
    items.pop_back();
    *next_page_token = EncodePageToken(scope, items.back().position);
  }
  return items;
}

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_PAGING_H_
